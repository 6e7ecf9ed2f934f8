# From ctest's log what was skipped, each case once: ctest shows nothing of a test that passes.
/^[0-9]+\/[0-9]+ Testing: / { test = $3; in_title = 0 }
# Catch2 rules off a case's title with two lines of 79 characters, sections below it.
/^-+$/ && length($0) == 79 {
  in_title = !in_title
  if (in_title) title = ""
  next
}
in_title {
  sub(/^ +/, "")
  title = title (title == "" ? "" : " ") $0
}
/: SKIPPED:$/ {
  file = $0
  sub(/.*\/tests\//, "tests/", file)
  sub(/:[0-9]+: SKIPPED:$/, "", file)
  wants_reason = 1
  next
}
/^  / && wants_reason {
  wants_reason = 0
  sub(/^ +/, "")
  show(file ": " title ": " $0)
}
# The Python tests' own words, and unittest's.
/^SKIP/ { show(test ": " $0) }
/^OK \(skipped=/ { show(test ": " $0) }

function show(line) {
  if (!seen[line]++) print "skipped: " line
}

#!/bin/sh
# The training run. Threads wait without spinning (the matrices are small, so the two cores meet
# often), and memory of freed tensors is kept instead of going back to the system each time.
export OMP_WAIT_POLICY=PASSIVE GOMP_SPINCOUNT=0
export MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=4294967296
exec "${PYTHON:-python3}" "$(dirname "$0")/train.py" "$@"

"""What the tests of the command line have in common. They are run as FILE TANDEM [unittest arguments]; importing this takes
TANDEM off the arguments."""
import os
import shutil
import sys
import tempfile
import unittest

from tandem_process import run

if len(sys.argv) < 2 or not os.path.isfile(sys.argv[1]):
    sys.exit(f"usage: {os.path.basename(sys.argv[0])} TANDEM [unittest arguments]")
TANDEM = os.path.abspath(sys.argv.pop(1))


class CommandLineTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = tempfile.mkdtemp(prefix="tandem-cli-")
        cls.checkpoint = os.path.join(cls.dir, "made")
        status, out, err = run(TANDEM, "make-checkpoint", cls.checkpoint, "--layers", 2, "--seed", 7)
        assert status == 0, out + err
        cls.made_output = out

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.dir)

    def path(self, name):
        return os.path.join(self.dir, name)

    def write(self, name, text):
        with open(self.path(name), "w", encoding="utf-8") as file:
            file.write(text)
        return self.path(name)

    def assert_fails(self, *args, status=1, says=(), **kwargs):
        """Exit status, nothing on stdout that looks like success, one clear line on stderr."""
        got, out, err = run(TANDEM, *args, **kwargs)
        self.assertEqual(got, status, out + err)
        errors = [line for line in err.splitlines() if line.startswith("tandem: error: ")]
        self.assertEqual(len(errors), 1, err)
        for words in says:
            self.assertIn(str(words), errors[0])
        return err

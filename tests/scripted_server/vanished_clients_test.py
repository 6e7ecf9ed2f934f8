#!/usr/bin/env python3
"""Clients whose machine or network is gone, so that no FIN and no reset ever comes:
vanished_clients_test.py SCRIPTED_SERVER.

Runs in a network namespace of its own, whose loopback interface is taken down under an open connection. Skipped (status 4)
where the system allows no such namespace.
"""
import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
import unittest

from scripted_server import ScriptedServer

SKIPPED = 4
IN_NAMESPACE = "TANDEM_IN_NAMESPACE"
EXECUTABLE = ""
SCRIPT = [{"say": "0123456789", "repeat": True}]


def set_loopback(up):
    get_flags, set_flags, is_up = 0x8913, 0x8914, 1  # SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sh", b"lo", 0) + bytes(14)
        flags = struct.unpack("16sh", fcntl.ioctl(control, get_flags, request)[:18])[1]
        flags = flags | is_up if up else flags & ~is_up
        fcntl.ioctl(control, set_flags, struct.pack("16sh", b"lo", flags) + bytes(14))


class VanishedClients(unittest.TestCase):
    def check_is_given_up(self, stream):
        set_loopback(True)
        with ScriptedServer(EXECUTABLE, SCRIPT, "--step-us", 2000, "--vanished-timeout", 3, "--verbose",
                            stderr=subprocess.PIPE) as server:
            client = socket.create_connection((server.host, server.port))
            body = json.dumps({"messages": [{"role": "user", "content": "go"}], "stream": stream}).encode()
            client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            if stream:
                self.assertTrue(client.recv(100).startswith(b"HTTP/1.1 200"))
            else:
                while server.health()["num_running"] == 0:
                    pass
            set_loopback(False)
            said = next((line for line in server.process.stderr if "client gone" in line), "")
            self.assertIn("client gone", said)
            set_loopback(True)
            while server.health()["kv_pages_used"] != 0:  # at its next step
                pass
            client.close()

    def test_one_that_does_not_acknowledge_its_stream(self):
        self.check_is_given_up(stream=True)

    def test_one_that_waits_for_a_whole_answer(self):
        self.check_is_given_up(stream=False)


if __name__ == "__main__":
    if IN_NAMESPACE not in os.environ:
        separated = ["unshare", "--map-root-user", "--net"]
        if subprocess.run([*separated, "true"], stderr=subprocess.DEVNULL, check=False).returncode != 0:
            print("SKIPPED: no network namespace is allowed here")
            sys.exit(SKIPPED)
        os.environ[IN_NAMESPACE] = "1"
        os.execvp(separated[0], [*separated, sys.executable, *sys.argv])
    EXECUTABLE = sys.argv.pop(1)
    unittest.main()

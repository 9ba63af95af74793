#!/usr/bin/env python3
"""The client's side of lifecycle.sh.

    lifecycle.py drain PORT PID      SIGTERM with one client in the middle of DATA and one that does nothing
    lifecycle.py hang PORT           stays in the middle of DATA until the connection ends
"""

import os
import signal
import socket
import sys
import time

import smtp_client

USER, PASSWORD = "shop", "secret"


def half_a_message(port, recipient):
    client = smtp_client.Client(port)
    client.greet(USER, PASSWORD)
    client.envelope("otp@app.test", [recipient])
    client.say("DATA", 354)
    client.send(b"From: otp@app.test\r\nSubject: half\r\n\r\nfirst line\r\n")
    return client


def new_connection(port):
    """What a client hears that comes late."""
    try:
        with smtp_client.Client(port, 5) as client:
            code, _ = client.reply()
            return str(code)
    except ConnectionRefusedError:
        return "refused"
    except (ConnectionError, smtp_client.Refused):
        return "closed"


def drain(port, pid):
    idle = smtp_client.Client(port)
    idle.greet(USER, PASSWORD)
    busy = half_a_message(port, "half@example.test")
    os.kill(pid, signal.SIGTERM)
    code, text = idle.reply()
    if code != 421:
        sys.exit(f"FAILED: expected 421 for a client that does nothing; seen: {code} {text}")
    print(f"ok: SIGTERM: a client that does nothing hears {code} {text}")
    end = time.monotonic() + 5
    while (heard := new_connection(port)) not in ("refused", "421") and time.monotonic() < end:
        time.sleep(0.05)
    if heard not in ("refused", "421"):
        sys.exit(f"FAILED: expected a new connection to be refused or to hear 421; seen: {heard}")
    print(f"ok: SIGTERM: a new connection: {heard}")
    busy.send(b"last line\r\n.\r\n")
    code, text = busy.reply()
    if code not in (250, 421):
        sys.exit(f"FAILED: expected 250 or 421 for the message on its way; seen: {code} {text}")
    print(f"ok: SIGTERM: a client in the middle of DATA hears {code} {text}")
    if code == 250:
        code, text = busy.reply()
        if code != 421:
            sys.exit(f"FAILED: expected 421 after that; seen: {code} {text}")
        print(f"ok: SIGTERM: and then {code} {text}")


def hang(port):
    client = half_a_message(port, "never@example.test")
    print("half", flush=True)
    try:
        client.socket.settimeout(60)
        client.reply()
    except (ConnectionError, smtp_client.Refused, socket.timeout):
        pass


if sys.argv[1] == "drain":
    drain(int(sys.argv[2]), int(sys.argv[3]))
else:
    hang(int(sys.argv[2]))

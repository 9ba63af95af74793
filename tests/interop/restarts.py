"""Restarts a relay behind a socket that somebody else holds, while clients connect without a pause.

This process holds the socket, as the service manager does. Each round it is handed to systemd-socket-activate, which waits for a
client and becomes the relay; the relay is then stopped with SIGTERM, and the next round begins. Every client has to get its banner.

    restarts.py RELAY ROUNDS FOLDER
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time

PORT = 2597
PATIENCE = 120


class Clients(threading.Thread):
    """Connects, waits for the banner, says QUIT, begins anew."""

    def __init__(self):
        super().__init__(daemon=True)
        self.done = 0
        self.faults = []
        self.longest = 0.0
        self.is_over = False

    def run(self):
        while not self.is_over:
            began = time.monotonic()
            try:
                with socket.create_connection(("127.0.0.1", PORT), timeout=PATIENCE) as client:
                    banner = client.recv(200)
                    # A client that was let in just before the stop is told to come back.
                    if not banner.startswith((b"220", b"421")):
                        self.faults.append(f"banner {banner!r}")
                    client.sendall(b"QUIT\r\n")
            except OSError as error:
                self.faults.append(repr(error))
            self.done += 1
            self.longest = max(self.longest, time.monotonic() - began)


def main():
    relay, rounds, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    config = os.path.join(folder, "restarts.toml")
    with open(config, "w", encoding="ascii") as file:
        file.write(
            f'hostname = "relay.app.test"\ndata_dir = "{folder}/restarts-data"\n[[listener]]\naddress = "127.0.0.1:{PORT}"\n'
            'auth = "trusted"\ntrusted_networks = ["127.0.0.0/8"]\n[http]\naddress = "off"\n'
            '[[user]]\nname = "trusted"\nsenders = ["*@app.test"]\n[resolver]\nnameservers = ["127.0.0.1:9"]\n'
        )
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("127.0.0.1", PORT))
    listening.listen(1024)
    notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notified.bind(os.path.join(folder, "notify"))
    notified.settimeout(1)
    log = open(os.path.join(folder, "relay.log"), "ab")
    clients = [Clients() for _ in range(8)]
    for client in clients:
        client.start()
    for number in range(rounds):
        child = start(relay, config, listening, os.path.join(folder, "notify"), log)
        wait_until_ready(notified, child, number)
        # It serves for a moment, under load.
        time.sleep(0.05)
        child.send_signal(signal.SIGTERM)
        status = child.wait(timeout=PATIENCE)
        if status != 0:
            sys.exit(f"round {number}: status {status}")
    # The last one serves who still waits.
    child = start(relay, config, listening, os.path.join(folder, "notify"), log)
    wait_until_ready(notified, child, rounds)
    for client in clients:
        client.is_over = True
    for client in clients:
        client.join(PATIENCE)
    child.send_signal(signal.SIGTERM)
    child.wait(timeout=PATIENCE)
    faults = [fault for client in clients for fault in client.faults]
    done = sum(client.done for client in clients)
    if faults or not done:
        sys.exit(f"{len(faults)} of {done} connections failed: {faults[:3]}")
    longest = max(client.longest for client in clients)
    print(f"{rounds} restarts, {done} connections, none refused; the longest waited {longest:.2f} s for its banner")


def wait_until_ready(notified, child, number):
    end = time.monotonic() + PATIENCE
    while True:
        try:
            if b"READY=1" in notified.recv(4096):
                return
        except socket.timeout:
            if child.poll() is not None or time.monotonic() > end:
                sys.exit(f"round {number}: not ready, status {child.poll()}")


def start(relay, config, listening, notify, log):
    """Hands the socket over as descriptor 3."""

    def hand_over():
        os.dup2(listening.fileno(), 3)
        os.set_inheritable(3, True)

    # LISTEN_PID has to be that of the process that takes it: a shell sets it and becomes that process.
    command = 'export LISTEN_FDS=1 LISTEN_PID=$$; exec systemd-socket-activate "$@"'
    # systemd-socket-activate hands only the variables over that it is told to.
    handed = ["--setenv=NOTIFY_SOCKET=" + notify]
    arguments = ["sh", "-c", command, "sh", *handed, relay, "serve", "-c", config]
    return subprocess.Popen(arguments, preexec_fn=hand_over, close_fds=False, stdout=log, stderr=log)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Stands in for the service manager: prints what is sent to the socket.

    notify_socket.py PATH
"""

import socket
import sys

with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
    listener.bind(sys.argv[1])
    print("listening", flush=True)
    while True:
        print(listener.recv(4096).decode(), flush=True)

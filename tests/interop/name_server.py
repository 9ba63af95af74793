#!/usr/bin/env python3
"""A name server for one test: answers from a table over UDP and TCP, knows nothing of zones.

    name_server.py TABLE [PORT]      lines of TABLE: name TYPE data, TYPE one of MX, A, TXT, as in
                             example.test MX 10 mx.example.test
                             example.test EDNS formerr       a query for it with EDNS is answered by FORMERR

Listens on 127.0.0.1 and prints the port. A name that is not in the table does not exist.
"""

import ipaddress
import socketserver
import struct
import sys
import threading

TYPES = {"A": 1, "MX": 15, "TXT": 16}
OPT = 41
# In a table: what becomes of EDNS.
EDNS = "EDNS"
TTL_S = 60


def encode_name(name):
    labels = [label.encode() for label in name.rstrip(".").split(".") if label]
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def encode_data(kind, text):
    if kind == "A":
        return ipaddress.IPv4Address(text).packed
    if kind == "MX":
        preference, host = text.split()
        return struct.pack("!H", int(preference)) + encode_name(host)
    raw = text.encode()
    parts = [raw[at : at + 255] for at in range(0, len(raw), 255)]
    return b"".join(bytes([len(part)]) + part for part in parts)


def read_table(path):
    table = {}
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            if not line.strip():
                continue
            name, kind, text = line.strip().split(None, 2)
            rows = table.setdefault(name.lower().rstrip("."), [])
            rows.append((EDNS, text) if kind == EDNS else (TYPES[kind], encode_data(kind, text)))
    return table


def parse_question(query):
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode("latin-1").lower())
        at += 1 + query[at]
    kind = struct.unpack("!H", query[at + 1 : at + 3])[0]
    return ".".join(labels), kind, at + 5


def has_edns(query, end):
    return len(query) >= end + 11 and query[end] == 0 and struct.unpack("!H", query[end + 1 : end + 3])[0] == OPT


def udp_size(query, end):
    """What the EDNS record allows; 512 without one."""
    if has_edns(query, end):
        return max(512, struct.unpack("!H", query[end + 3 : end + 5])[0])
    return 512


def respond(query, table, size_max=None):
    name, kind, end = parse_question(query)
    if has_edns(query, end) and (EDNS, "formerr") in table.get(name, []):
        return query[:2] + struct.pack("!HHHHH", 0x8581, 1, 0, 0, 0) + query[12:end]
    records = [data for known, data in table.get(name, []) if known == kind]
    answers = b"".join(b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, TTL_S, len(data)) + data for data in records)
    exists = name in table or any(known.endswith("." + name) for known in table)
    flags = 0x8580 if exists else 0x8583
    count = len(records)
    if size_max is not None and end + len(answers) > min(size_max, udp_size(query, end)):
        flags, count, answers = flags | 0x0200, 0, b""
    return query[:2] + struct.pack("!HHHHH", flags, 1, count, 0, 0) + query[12:end] + answers


class OverUdp(socketserver.BaseRequestHandler):
    def handle(self):
        query, socket = self.request
        socket.sendto(respond(query, self.server.table, 4096), self.client_address)


class OverTcp(socketserver.StreamRequestHandler):
    def handle(self):
        while len(head := self.rfile.read(2)) == 2:
            answer = respond(self.rfile.read(struct.unpack("!H", head)[0]), self.server.table)
            self.wfile.write(struct.pack("!H", len(answer)) + answer)


class TcpServer(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


def main():
    table = read_table(sys.argv[1])
    tcp = TcpServer(("127.0.0.1", int(sys.argv[2]) if len(sys.argv) > 2 else 0), OverTcp)
    udp = socketserver.ThreadingUDPServer(tcp.server_address, OverUdp)
    tcp.table = udp.table = table
    threading.Thread(target=tcp.serve_forever, daemon=True).start()
    print(tcp.server_address[1], flush=True)
    udp.serve_forever()


main()

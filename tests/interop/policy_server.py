#!/usr/bin/env python3
"""The web server of MTA-STS policies for one test: HTTPS, one file a host.

    policy_server.py FOLDER CERTIFICATE KEY ADDRESS      FOLDER/HOST is the policy at https://HOST/.well-known/mta-sts.txt

Listens on port 443 of the address; prints 443 when it does.
"""

import http.server
import pathlib
import ssl
import sys


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        host = self.headers.get("Host", "").partition(":")[0]
        file = pathlib.Path(self.server.folder, pathlib.PurePath(host).name or "none")
        if self.path != "/.well-known/mta-sts.txt" or not file.is_file():
            self.send_error(404)
            return
        policy = file.read_bytes()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(policy)))
        self.end_headers()
        self.wfile.write(policy)


def main():
    folder, certificate, key, address = sys.argv[1:]
    server = http.server.ThreadingHTTPServer((address, 443), Handler)
    server.folder = folder
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    # A handshake that fails is the client's business; it happens in the thread of its connection.
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    print(443, flush=True)
    server.serve_forever()


main()

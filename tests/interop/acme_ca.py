"""acme2certifier, a CA with renewal information and dns-persist-01, over HTTPS at a port of loopback.

    acme_ca.py SETTINGS PORT CERTIFICATE KEY
"""

import os
import runpy
import ssl
import sys
import sysconfig

# Both are read when the modules below are loaded: its settings, and that it is reached over TLS.
os.environ["ACME_SRV_CONFIGFILE"] = sys.argv[1]
os.environ["HTTPS"] = "on"
from socketserver import ThreadingMixIn  # noqa: E402
from wsgiref.simple_server import WSGIServer, make_server  # noqa: E402


class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


def main():
    library = sysconfig.get_paths()["purelib"]
    application = runpy.run_path(f"{library}/acme2certifier/share/acme2certifier_wsgi.py")["application"]
    server = make_server("127.0.0.1", int(sys.argv[2]), application, server_class=Server)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[3], sys.argv[4])
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.serve_forever()


main()

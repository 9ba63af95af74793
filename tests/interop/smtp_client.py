"""An SMTP client that sends exactly the octets it is told to."""

import base64
import re
import socket
import ssl


class Refused(Exception):
    """A reply that was not the expected one; `code` is none if the connection ended instead."""

    def __init__(self, code, text):
        super().__init__(f"{code} {text}")
        self.code, self.text = code, text


class Client:
    def __init__(self, port, timeout_s=60):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.reader = self.socket.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.reader.close()
        self.socket.close()

    def send(self, octets):
        self.socket.sendall(octets)

    def reply(self, expected=None):
        """Reads one reply; returns its code and its lines joined by LF."""
        lines = []
        while True:
            line = self.reader.readline()
            if not line.endswith(b"\r\n"):
                raise Refused(None, "the connection ended")
            lines.append(line[4:-2].decode())
            if line[3:4] != b"-":
                break
        code, text = int(line[:3]), "\n".join(lines)
        if expected is not None and code != expected:
            raise Refused(code, text)
        return code, text

    def say(self, line, expected=250):
        self.send(line.encode() + b"\r\n")
        return self.reply(expected)[1]

    def greet(self, user=None, password=None):
        self.reply(220)
        self.say("EHLO client.test")
        if user:
            token = base64.b64encode(f"\0{user}\0{password}".encode()).decode()
            self.say(f"AUTH PLAIN {token}", 235)

    def starttls(self):
        """With whoever answers; returns the certificate in PEM form."""
        self.say("STARTTLS", 220)
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self.socket = context.wrap_socket(self.socket)
        self.reader = self.socket.makefile("rb")
        return ssl.DER_cert_to_PEM_cert(self.socket.getpeercert(binary_form=True))

    def envelope(self, mail, recipients, parameters=""):
        self.say(f"MAIL FROM:<{mail}>{parameters}")
        for recipient in recipients:
            self.say(f"RCPT TO:<{recipient}>")

    def data(self, content):
        """Content by DATA; it has to end with CRLF, as anything that DATA can carry does."""
        assert content.endswith(b"\r\n")
        self.say("DATA", 354)
        self.send(re.sub(rb"(?m)^\.", b"..", content) + b".\r\n")
        return self.reply(250)[1]

    def bdat(self, chunks):
        """Content by BDAT, pipelined; an empty last chunk is allowed."""
        for number, chunk in enumerate(chunks):
            last = " LAST" if number == len(chunks) - 1 else ""
            self.send(f"BDAT {len(chunk)}{last}\r\n".encode() + chunk)
        for _ in chunks:
            text = self.reply(250)[1]
        return text

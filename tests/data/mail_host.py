"""The mail host of make-folder.sh: answers RCPT by the first letters of the recipient.

    mail_host.py FILE       prints its port; the six digits of what code@ gets go into FILE
"""

import re
import socketserver
import sys

REPLIES = {
    "later": "450 4.3.2 come back later",
    "late": "450 4.3.2 come back later",
    "grey": "450 4.2.0 greylisted, try again in 300 seconds",
    "nobody": "550 5.1.1 no such user",
    "denied": "554 5.7.1 Relay access denied",
}


class Session(socketserver.StreamRequestHandler):
    def say(self, line):
        self.wfile.write(line.encode() + b"\r\n")

    def handle(self):
        self.say("220 mx.example.test ESMTP")
        recipients = []
        while line := self.rfile.readline().decode().strip():
            verb = line.split(" ")[0].upper()
            if verb == "EHLO":
                self.say("250-mx.example.test\r\n250-PIPELINING\r\n250 8BITMIME")
            elif verb == "RCPT":
                recipient = re.search("<(.*?)>", line).group(1)
                reply = next((text for name, text in REPLIES.items() if recipient.startswith(name)), "250 2.1.5 ok")
                recipients += [recipient] if reply.startswith("250") else []
                self.say(reply)
            elif verb == "DATA" and not recipients:
                self.say("554 5.5.1 no valid recipients")
            elif verb == "DATA":
                self.say("354 go on")
                self.take(recipients)
                self.say("250 2.0.0 kept")
            elif verb == "QUIT":
                self.say("221 2.0.0 bye")
                return
            else:
                recipients = [] if verb in ("MAIL", "RSET") else recipients
                self.say("250 2.0.0 ok")

    def take(self, recipients):
        content = b""
        while (line := self.rfile.readline()) != b".\r\n":
            content += line
        if recipients == ["code@example.test"]:
            with open(sys.argv[1], "w", encoding="ascii") as file:
                file.write(re.search(rb"(?m)^.*?\b(\d{3}) ?(\d{3})\b", content.partition(b"\r\n\r\n")[2]).expand(rb"\1\2").decode())


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True


with Server(("127.0.0.1", 0), Session) as server:
    print(server.server_address[1], flush=True)
    server.serve_forever()

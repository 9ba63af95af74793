"""A mail host for alerts.sh: `blocked` addresses hear that the client is on a block list, `gone` ones that they do not exist,
`never` ones that they shall come later, all others are taken. Prints its port."""

import socketserver


class Host(socketserver.StreamRequestHandler):
    def say(self, text):
        self.wfile.write(text.encode() + b"\r\n")

    def handle(self):
        self.say("220 mx.example.net ESMTP")
        is_content = False
        for line in self.rfile:
            line = line.decode("utf-8", "replace").rstrip("\r\n")
            if is_content:
                is_content = line != "."
                if not is_content:
                    self.say("250 2.0.0 taken")
            elif line.startswith("RCPT TO:<blocked"):
                self.say("550 5.7.1 Service unavailable; client host blocked using zen.spamhaus.org")
            elif line.startswith("RCPT TO:<gone"):
                self.say("550 5.1.1 no such user")
            elif line.startswith("RCPT TO:<never"):
                self.say("451 4.7.1 Greylisted, please come back in 30 minutes")
            elif line == "DATA":
                is_content = True
                self.say("354 go on")
            elif line == "QUIT":
                self.say("221 bye")
                return
            else:
                self.say("250 ok")


socketserver.ThreadingTCPServer.allow_reuse_address = True
server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Host)
server.daemon_threads = True
print(server.server_address[1], flush=True)
server.serve_forever()

#!/usr/bin/env python3
"""The other side of webhooks.sh.

    webhooks.py receive FOLDER            a web server; prints its port. Each post becomes a line of FOLDER/posts. What it
                                          answers stands in FOLDER/answer: a status, and header fields behind it
    webhooks.py verify POSTS PATH SECRET  each post to PATH is verified by PyPI's standardwebhooks, and by svix where it has
                                          svix's header fields
    webhooks.py order POSTS PATH ACKNOWLEDGED SECONDS
                                          waits until the end of every acknowledged recipient was posted; nothing may be
                                          missing, and of each recipient nothing may come out of order
"""

import base64
import collections
import http.server
import json
import pathlib
import sys
import threading
import time

ENDS = {"delivered", "failed", "expired", "superseded", "cancelled"}


def receive(folder):
    posts = open(folder / "posts", "a", encoding="utf-8")
    lock = threading.Lock()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # A small answer goes at once.
        disable_nagle_algorithm = True

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            status, *fields = (folder / "answer").read_text(encoding="ascii").strip().split(" ")
            line = {"path": self.path, "headers": headers, "body": base64.b64encode(body).decode(), "status": status}
            with lock:
                posts.write(json.dumps(line) + "\n")
                posts.flush()
            self.send_response(int(status))
            for field in fields:
                self.send_header(*field.split("="))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

    server = Server(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()


def read(posts, path):
    lines = (json.loads(line) for line in posts.read_text(encoding="utf-8").splitlines() if line.endswith("}"))
    return [line for line in lines if line["path"] == path]


def verify(posts, path, secret):
    import standardwebhooks
    import svix

    verified = by_svix = 0
    for post in read(posts, path):
        body = base64.b64decode(post["body"])
        standardwebhooks.Webhook(secret).verify(body, post["headers"])
        verified += 1
        if "svix-id" in post["headers"]:
            svix.Webhook(secret).verify(body, {name: value for name, value in post["headers"].items() if name.startswith("svix-")})
            by_svix += 1
    if verified == 0:
        sys.exit("FAILED: expected posts; seen: none")
    print(f"{verified} posts verified by standardwebhooks (Python), {by_svix} by svix (Python)")


def order(posts, path, acknowledged, seconds):
    wanted = acknowledged.read_text(encoding="ascii").split()
    end = time.monotonic() + seconds
    while True:
        first, repeats, ended = collections.defaultdict(dict), 0, collections.defaultdict(set)
        for post in read(posts, path):
            if not post["status"].startswith("2"):
                continue
            event, number = json.loads(base64.b64decode(post["body"])), post["headers"]["webhook-id"]
            name = event["recipient"].split("@")[0]
            repeats += number in first[name]
            first[name].setdefault(number, event)
            if event["event"] in ENDS:
                ended[name].add(number)
        lost = [name for name in wanted if not ended[name]]
        if not lost or time.monotonic() > end:
            break
        time.sleep(1)
    twice = [name for name in wanted if len(ended[name]) > 1]
    disorder = []
    for name, events in first.items():
        times = [(event["time"], event["event"] != "accepted") for event in events.values()]
        kinds = [event["event"] for event in events.values()]
        if times != sorted(times) or kinds[0] != "accepted" or any(kind in ENDS for kind in kinds[:-1]):
            disorder.append((name, kinds))
    print(f"acknowledged {len(wanted)}, ends never posted {len(lost)}, ended twice {len(twice)}, out of order {len(disorder)}, posted again {repeats}")
    if lost or twice or disorder:
        sys.exit(f"FAILED: expected nothing lost or out of order; seen: {lost[:3]}, {twice[:3]}, {disorder[:3]}")


if sys.argv[1] == "receive":
    receive(pathlib.Path(sys.argv[2]))
elif sys.argv[1] == "verify":
    verify(pathlib.Path(sys.argv[2]), sys.argv[3], sys.argv[4])
else:
    order(pathlib.Path(sys.argv[2]), sys.argv[3], pathlib.Path(sys.argv[4]), float(sys.argv[5]))

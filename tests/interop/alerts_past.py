"""A second relay for alerts.sh that is only played: what it measures took a week, or is what this version cannot measure yet.
`past` writes a week's samples for `promtool tsdb create-blocks-from openmetrics`; `serve PORT` answers scrapes from then on.

Its codes are used by nine people in ten until a week ago and by one in four since; a provider is held; recipients complain."""

import http.server
import sys
import time

STEP = 30
WEEK = 7 * 86_400
EVERY = 150  # seconds between two codes


def samples(now, begin):
    """Name, labels and value of each series at a time, where the relay was started at `begin`."""
    codes = (now - begin) / EVERY
    fell_at = (begin + 2 * 3600 - begin) / EVERY
    used = 0.9 * min(codes, fell_at) + 0.25 * max(0.0, codes - fell_at)
    return [
        ("otp_relay_in_time", "counter", 'lane="otp"', codes),
        ("otp_relay_verified", "counter", 'lane="otp"', used),
        ("otp_relay_events", "counter", 'event="complained",lane="otp"', codes / 10),
        ("otp_relay_events", "counter", 'event="delivered",lane="otp"', codes),
        ("otp_relay_provider_hold_seconds", "gauge", 'provider="example.org"', 600),
    ]


def past(now):
    """The same hour of a week ago, and the last two hours."""
    begin = now - WEEK - 2 * 3600
    times = [*range(begin + 2, begin + 2 * 3600 + 3600, STEP), *range(now - 2 * 3600, now - STEP, STEP)]
    for name, kind in [("otp_relay_in_time", "counter"), ("otp_relay_verified", "counter")]:
        print(f"# TYPE {name} {kind}")
        for at in times:
            for series, _, labels, value in samples(at, begin):
                if series == name:
                    print(f'{name}_total{{{labels},instance="played",job="played"}} {value:.6f} {at}')
    print("# EOF")


class Played(http.server.BaseHTTPRequestHandler):
    begin = 0

    def do_GET(self):
        lines, typed = [], set()
        for name, kind, labels, value in samples(time.time(), self.begin):
            name = name + ("_total" if kind == "counter" else "")
            if name not in typed:
                lines.append(f"# TYPE {name} {kind}")
                typed.add(name)
            lines.append(f"{name}{{{labels}}} {value:.6f}")
        body = ("\n".join(lines) + "\n").encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


if sys.argv[1] == "past":
    past(int(sys.argv[2]))
else:
    Played.begin = int(sys.argv[3]) - WEEK - 2 * 3600
    http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Played).serve_forever()

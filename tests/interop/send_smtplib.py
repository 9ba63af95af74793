#!/usr/bin/env python3
"""Sends a file, which has LF for line ends, with Python's smtplib, with STARTTLS and a login.

    send_smtplib.py PORT USER PASSWORD FILE FROM TO...
"""

import pathlib
import smtplib
import ssl
import sys

port, user, password, path, sender, *recipients = sys.argv[1:]
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
content = pathlib.Path(path).read_bytes().replace(b"\n", b"\r\n")
options = []
if not content.isascii():
    options.append("BODY=8BITMIME")
if not "".join(recipients).isascii():
    options.append("SMTPUTF8")
with smtplib.SMTP("127.0.0.1", int(port)) as smtp:
    smtp.starttls(context=context)
    try:
        smtp.login(user, password)
    except smtplib.SMTPAuthenticationError as error:
        sys.exit(f"{error.smtp_code} {error.smtp_error.decode()}")
    refused = smtp.sendmail(sender, recipients, content, options)
    sys.exit(f"refused: {refused}" if refused else 0)

"""An endpoint of FastAPI that mails a code by FastAPI-mail."""

import os

from fastapi import FastAPI
from fastapi.testclient import TestClient
from fastapi_mail import ConnectionConfig, FastMail, MessageSchema, MessageType

mail = FastMail(
    ConnectionConfig(
        MAIL_SERVER=os.environ["RELAY_HOST"],
        MAIL_PORT=int(os.environ["RELAY_PORT"]),
        MAIL_USERNAME=os.environ["RELAY_USER"],
        MAIL_PASSWORD=os.environ["RELAY_PASSWORD"],
        MAIL_FROM=os.environ["SENDER"],
        MAIL_STARTTLS=True,
        MAIL_SSL_TLS=False,
        USE_CREDENTIALS=True,
        VALIDATE_CERTS=True,
    )
)
app = FastAPI()


@app.post("/code")
async def code(email: str):
    await mail.send_message(
        MessageSchema(subject="Your code", recipients=[email], body="It is <b>481516</b>.", subtype=MessageType.html)
    )


assert TestClient(app).post("/code", params={"email": os.environ["RECIPIENT"]}).status_code == 200

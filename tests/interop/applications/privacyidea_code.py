"""privacyIDEA: an e-mail token whose challenge is a code, sent by an SMTP server of its configuration."""

import os
import pathlib
import tempfile

folder = pathlib.Path(tempfile.mkdtemp())
config = folder / "pi.cfg"
config.write_text(
    f"""SQLALCHEMY_DATABASE_URI = "sqlite:///{folder}/pi.sqlite"
SECRET_KEY = "{'x' * 40}"
PI_PEPPER = "pepper"
PI_ENCFILE = "{folder}/enckey"
PI_AUDIT_NO_SIGN = True
PI_LOGFILE = "{folder}/pi.log"
SUPERUSER_REALM = []
PI_NODE = "localnode"
"""
)
(folder / "enckey").write_bytes(os.urandom(96))
os.environ["PRIVACYIDEA_CONFIGFILE"] = str(config)

from privacyidea.app import create_app
from privacyidea.lib.smtpserver import add_smtpserver
from privacyidea.lib.token import init_token
from privacyidea.models import db

app = create_app(config_name="production", config_file=str(config), silent=True)
with app.test_request_context("/validate/check"):
    db.create_all()
    from privacyidea.lib.config import set_privacyidea_config

    add_smtpserver(
        "relay",
        server=os.environ["RELAY_HOST"],
        port=int(os.environ["RELAY_PORT"]),
        username=os.environ["RELAY_USER"],
        password=os.environ["RELAY_PASSWORD"],
        sender=os.environ["SENDER"],
        tls=True,
        timeout=10,
    )
    set_privacyidea_config("email.identifier", "relay")
    token = init_token({"type": "email", "email": os.environ["RECIPIENT"], "genkey": True, "pin": "pin"})
    sent, text = token.create_challenge()[:2]
    assert sent, text

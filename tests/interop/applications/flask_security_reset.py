"""Flask-Security's reset of a password, by Flask-Mailman."""

import os

from flask import Flask
from flask_mailman import Mail
from flask_security import Security, SQLAlchemyUserDatastore
from flask_security.models import fsqla_v3 as fsqla
from flask_sqlalchemy import SQLAlchemy

app = Flask(__name__)
app.config.update(
    SECRET_KEY="x" * 50,
    SECURITY_PASSWORD_SALT="1" * 30,
    SECURITY_RECOVERABLE=True,
    # There is no DNS but the one of this test.
    SECURITY_EMAIL_VALIDATOR_ARGS={"check_deliverability": False},
    SECURITY_EMAIL_SENDER=os.environ["SENDER"],
    SQLALCHEMY_DATABASE_URI="sqlite://",
    WTF_CSRF_ENABLED=False,
    MAIL_SERVER=os.environ["RELAY_HOST"],
    MAIL_PORT=int(os.environ["RELAY_PORT"]),
    MAIL_USERNAME=os.environ["RELAY_USER"],
    MAIL_PASSWORD=os.environ["RELAY_PASSWORD"],
    MAIL_USE_TLS=True,
    MAIL_TIMEOUT=10,
)
Mail(app)
db = SQLAlchemy(app)
fsqla.FsModels.set_db_info(db)


class Role(db.Model, fsqla.FsRoleMixin):
    pass


class User(db.Model, fsqla.FsUserMixin):
    pass


security = Security(app, SQLAlchemyUserDatastore(db, User, Role))
with app.app_context():
    db.create_all()
    security.datastore.create_user(email=os.environ["RECIPIENT"], password="unused")
    db.session.commit()
    answer = app.test_client().post("/reset", data={"email": os.environ["RECIPIENT"]})
    assert answer.status_code in (200, 302), answer.status_code

"""`opensipspy quickstart`: a running server for somebody who has just installed it.

Makes a working folder with the SQLite database and two demo subscribers, tells how to register a phone, and runs the
script that comes with the package. A second start keeps database, subscribers and passwords.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import secrets
import sqlite3
import sys
from pathlib import Path

from opensipspy.cli import db

SUMMARY = "make a database with two demo subscribers and start the server"

DATABASE = "opensipspy.sqlite"
SUBSCRIBERS = "demo-subscribers.json"
DOMAIN = "127.0.0.1"
USERS = ("alice", "bob")
PORT = 5060


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--directory", default="var", help="the working folder (default: var)")
    parser.add_argument("-f", "--script", default="", help="another script than the one that comes with the package")
    parser.add_argument("--prepare-only", action="store_true", help="make the database and end")


def passwords(folder: Path) -> dict[str, str]:
    """The demo subscribers and their passwords: those of the last start, or new ones.

    The file can be read by its owner only; the database holds digests, not passwords.
    """
    path = folder / SUBSCRIBERS
    if path.exists():
        known = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(known, dict) and all(isinstance(known.get(user), str) for user in USERS):
            return {user: known[user] for user in USERS}
    made = {user: secrets.token_urlsafe(9) for user in USERS}
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(made, file)
    return made


def subscribe(database: Path, users: dict[str, str]) -> None:
    """Write the subscribers' digests (RFC 7616 §3.4.2) for the domain of the demo, and the domain itself."""
    with sqlite3.connect(database) as connection:
        for user, password in users.items():
            secret = f"{user}:{DOMAIN}:{password}".encode()
            digests = (
                hashlib.md5(secret, usedforsecurity=False).hexdigest(),
                hashlib.sha256(secret).hexdigest(),
                hashlib.new("sha512_256", secret).hexdigest(),
            )
            connection.execute("DELETE FROM subscriber WHERE username = ? AND domain = ?", (user, DOMAIN))
            connection.execute(
                "INSERT INTO subscriber (username, domain, password, ha1, ha1_sha256, ha1_sha512t256)"
                " VALUES (?, ?, '', ?, ?, ?)",
                (user, DOMAIN, *digests),
            )
        if connection.execute("SELECT 1 FROM domain WHERE domain = ?", (DOMAIN,)).fetchone() is None:
            connection.execute("INSERT INTO domain (domain) VALUES (?)", (DOMAIN,))
    connection.close()


def advice(users: dict[str, str], folder: Path) -> str:
    first, second = USERS
    lines = [
        "",
        f"  SIP server   udp and tcp {DOMAIN}:{PORT}",
        *(f"  subscriber   sip:{user}@{DOMAIN}   password {password}" for user, password in users.items()),
        "",
        f"  Register a phone: account {first}@{DOMAIN}, password as above, registrar and proxy {DOMAIN}:{PORT}.",
        f"  In baresip:  /uanew <sip:{first}@{DOMAIN};transport=udp>;auth_pass={users[first]}",
        f"  Then register {second} on a second phone and call sip:{second}@{DOMAIN}.",
        "",
        f"  Working folder {folder}   management: opensipspy mi --fifo {folder / 'opensips_fifo'} usrloc:dump",
        "  Stop with Ctrl-C. See a whole call without a phone: opensipspy demo",
        "",
    ]
    return "\n".join(lines)


def prepare(folder: Path) -> dict[str, str]:
    """Make the folder, its database and the demo subscribers; returns the passwords by user."""
    folder.mkdir(parents=True, exist_ok=True)
    database = folder / DATABASE
    db.create(f"sqlite://{database}", None)
    users = passwords(folder)
    subscribe(database, users)
    return users


def run(args: argparse.Namespace) -> int:
    folder = Path(args.directory).resolve()
    shipped = Path(__file__).resolve().parent.parent / "scripts" / "opensips.cfg"
    script = Path(args.script).resolve() if args.script else shipped
    users = prepare(folder)
    print(advice(users, folder), flush=True)
    if args.prepare_only:
        return 0
    command = [sys.executable, "-m", "opensipspy", "-f", str(script), "-F", "-E", "-w", str(folder)]
    # The server takes this process over, so that signals of `make run` reach it and nothing else.
    return os.execv(sys.executable, command)

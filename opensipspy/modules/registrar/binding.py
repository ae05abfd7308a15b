"""What becomes of a user's contacts with a REGISTER (RFC 3261 §10.3 step 7)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from opensipspy.modules.registrar.refusal import bad_request
from opensipspy.modules.registrar.request import Asked, Registration, SaveFlags, Settings
from opensipspy.modules.registrar.standing import Standing
from opensipspy.modules.usrloc.api import MATCH_CONTACT, Change, Contact, Record

MAX_INSTANCE: Final = 255


def plan(
    asked: Registration,
    record: Record | None,
    flags: SaveFlags,
    settings: Settings,
    now: int,
    new_id: Callable[[], int],
    pn_flags: Callable[[Asked], tuple[int, int]] | None = None,
) -> Change:
    """What has to change so that the user's contacts are as asked; raises Refusal, and then nothing changes.

    Fills `asked.kept` with the contacts that stand after it, in the order of the record, for the answer.
    pn_flags: for a contact, (its flags, seconds before its end to wake it), with push notifications.
    """
    change = Change(asked.aor, memory_only=flags.memory_only)
    standing = record.valid(now) if record is not None else []
    if asked.star:
        for contact in standing:
            # A binding of another Call-ID goes whatever its CSeq (step 6).
            if contact.callid == asked.callid and asked.cseq <= contact.cseq:
                _check_order(asked, contact, settings, now)
        change.deletes = standing
        return change
    known: Standing | None = None
    for one in asked.asked:
        old: Contact | None = None
        if standing and not _is_only(standing, one, asked, flags, settings):
            if known is None:
                known = Standing(standing, asked.callid, flags, settings)
            old = known.match(one, standing)
        elif standing:
            old = standing[0]
        outdated = old is not None and old.callid == asked.callid and asked.cseq <= old.cseq
        if old is not None and outdated and _check_order(asked, old, settings, now):
            asked.retransmission = True
            continue
        if one.expires_s == 0:
            if old is not None and old not in change.deletes:
                change.deletes.append(old)
            continue
        made = _contact(asked, one, now, flags, pn_flags)
        if old is None:
            again = _listed_twice(change.inserts, one)
            if again is not None:
                change.inserts.remove(again)
            change.inserts.append(made)
        else:
            made.contact_id = old.contact_id
            made.kv = old.kv
            made.latency = old.latency
            if change.updates:
                change.updates = [pair for pair in change.updates if pair[0] is not old]
            change.updates.append((old, made))
    if asked.retransmission and not change:
        asked.kept = standing
        return change
    _check_count(change, standing, flags, settings)
    for contact in change.inserts:
        contact.contact_id = new_id()
    asked.kept = _after(change, standing)
    if record is not None and len(standing) < len(record.contacts):
        # What has run out goes now, before the timer: it may be the same phone as a new contact.
        change.deletes += [contact for contact in record.contacts if not contact.valid(now)]
    return change


def _listed_twice(inserts: Sequence[Contact], one: Asked) -> Contact | None:
    for made in inserts:
        if made.uri == one.name_addr.uri:
            return made
    return None


def _is_only(standing: list[Contact], one: Asked, asked: Registration, flags: SaveFlags, settings: Settings) -> bool:
    """The usual case, which needs no search: the user has one binding, and it is registered again as it was."""
    only = standing[0]
    if len(standing) > 1 or only.uri != one.name_addr.uri or flags.match_param or settings.pn_params:
        return False
    mode = flags.matching_mode if flags.matching_mode >= 0 else settings.matching_mode
    return mode == MATCH_CONTACT or only.callid == asked.callid


def _after(change: Change, standing: list[Contact]) -> list[Contact]:
    """The contacts that stand after a change, best q first."""
    kept: list[Contact]
    if change.updates or change.deletes:
        replaced = {id(old): new for old, new in change.updates}
        gone = {id(contact) for contact in change.deletes}
        kept = [replaced.get(id(c), c) for c in standing if id(c) not in gone]
    else:
        kept = list(standing)
    kept += change.inserts
    if len(kept) > 1:
        kept.sort(key=_minus_q)
    return kept


def _minus_q(contact: Contact) -> int:
    return -contact.q


def _check_order(asked: Registration, old: Contact, settings: Settings, now: int) -> bool:
    """The request is no newer than the binding (RFC 3261 §10.3 step 7): True for a retransmission, else Refusal.

    False when the parameters let a repeated CSeq through as a new registration.
    """
    if asked.cseq == old.cseq:
        if settings.cseq_delay > 0 and now - old.last_modified <= settings.cseq_delay:
            return True
        if settings.allow_dup_cseq:
            return False
    raise bad_request("Invalid CSeq number")


def _contact(
    asked: Registration,
    one: Asked,
    now: int,
    flags: SaveFlags,
    pn_flags: Callable[[Asked], tuple[int, int]] | None,
) -> Contact:
    instance = one.name_addr.param("+sip.instance") or ""
    bits, wake_before = pn_flags(one) if pn_flags is not None else (0, 0)
    expires = now + one.expires_s
    return Contact(
        one.name_addr.uri,
        expires,
        q=one.q,
        callid=asked.callid,
        cseq=asked.cseq,
        flags=bits,
        cflags=asked.cflags,
        received=asked.received,
        path=asked.path,
        user_agent=asked.user_agent,
        socket=asked.socket,
        methods=asked.methods,
        last_modified=now,
        sip_instance=instance[:MAX_INSTANCE],
        attr=asked.attr,
        shtag=asked.shtag,
        refresh_at=max(now, expires - wake_before) if wake_before else 0,
    )


def _check_count(change: Change, standing: Sequence[Contact], flags: SaveFlags, settings: Settings) -> None:
    most = flags.max_contacts if flags.max_contacts >= 0 else settings.max_contacts
    if most <= 0:
        return
    too_many = len(standing) - len(change.deletes) + len(change.inserts) - most
    if too_many <= 0 or not change.inserts:
        return
    if not flags.force or len(change.inserts) > most:
        raise settings.unavailable("too many registered contacts")
    updated = {id(old) for old, _ in change.updates} | {id(c) for c in change.deletes}
    oldest = sorted((c for c in standing if id(c) not in updated), key=lambda c: c.last_modified)
    if len(oldest) < too_many:
        raise settings.unavailable("too many registered contacts")
    change.deletes += oldest[:too_many]

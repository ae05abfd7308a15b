"""A home subscriber server for tests, made with python-diameter: `python tests/diameter_hss.py PORT NAME CLIENT RES`.

Answers Multimedia-Auth-Requests of Cx with one vector whose RAND, AUTN, CK and IK are fixed and whose XRES is RES in
hexadecimal, or with Authorization for a resynchronisation another RAND; and Accounting-Requests with success. Writes
"ready" when it listens. With `ask` as a further argument it sends the client one Multimedia-Auth-Request and writes
the Result-Code of the answer.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

from diameter.message import Avp, Message, constants
from diameter.message.avp import AvpGrouped
from diameter.message.commands import AccountingRequest, MultimediaAuthRequest
from diameter.node import Node
from diameter.node.application import SimpleThreadingApplication

CX = 16777216
TGPP = 10415
RAND = bytes(range(16))
RAND_AGAIN = bytes(range(16, 32))
AUTN = bytes.fromhex("00112233445566778899aabbccddeeff")
CK = bytes.fromhex("0f" * 16)
IK = bytes.fromhex("f0" * 16)


def tgpp(code: int, value: Any) -> Avp:
    return Avp.new(code, TGPP, value=value)


def main() -> None:
    port, name, client, res = int(sys.argv[1]), sys.argv[2], sys.argv[3], bytes.fromhex(sys.argv[4])
    realm = name.partition(".")[2]

    def multimedia(app: Any, message: MultimediaAuthRequest) -> Message:
        found = [avp for avp in message.avps if avp.code == 612]
        parts = found[0].value if found else []
        again = any(avp.code == 610 for avp in parts)
        scheme = next(avp.value for avp in parts if avp.code == 608)
        answer = app.generate_answer(message, result_code=constants.E_RESULT_CODE_DIAMETER_SUCCESS)
        wanted = next((avp.value for avp in message.avps if avp.code == 1), "")
        if wanted.startswith("nobody"):
            answer.result_code = 5012
            return answer
        item = AvpGrouped(612, TGPP)
        item.is_mandatory = True
        item.value = [
            tgpp(613, 1),
            tgpp(608, scheme),
            tgpp(609, (RAND_AGAIN if again else RAND) + AUTN),
            tgpp(610, res),
            tgpp(625, CK),
            tgpp(626, IK),
        ]
        answer.append_avp(item)
        return answer

    def accounting(app: Any, message: AccountingRequest) -> Message:
        answer = app.generate_answer(message, result_code=constants.E_RESULT_CODE_DIAMETER_SUCCESS)
        answer.accounting_record_type = message.accounting_record_type
        answer.accounting_record_number = message.accounting_record_number
        return answer

    node = Node(name, realm, ip_addresses=["127.0.0.1"], tcp_port=port, vendor_ids=[TGPP])
    # Its table of Multimedia-Auth wants the AVPs of RFC 4740 under the command code of Cx.
    node.validate_received_request_avps = False
    peer = node.add_peer(f"aaa://{client}", realm)
    cx = SimpleThreadingApplication(CX, is_auth_application=True, request_handler=multimedia)
    records = SimpleThreadingApplication(3, is_acct_application=True, request_handler=accounting)
    node.add_application(cx, [peer])
    node.add_application(records, [peer])
    node.start()
    print("ready", flush=True)
    if "ask" in sys.argv:
        cx.wait_for_ready()
        request = MultimediaAuthRequest()
        request.session_id = node.session_generator.next_id()
        request.origin_host = name.encode()
        request.origin_realm = realm.encode()
        request.destination_realm = realm.encode()
        request.destination_host = client.encode()
        request.auth_session_state = 1
        request.user_name = "asked@" + realm
        request.header.is_proxyable = True
        answer = cx.send_request(request, 5)
        print("answer", answer.result_code, next(avp.value for avp in answer.avps if avp.code == 1), flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()

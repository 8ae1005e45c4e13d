"""Session descriptions (SDP, RFC 8866) that clients offer: what is rejected, and which of their addresses are tried."""

from __future__ import annotations

import ipaddress

from chatapi.errors import BadInput, TooLarge, Unprocessable

MOST_CHARS = 64 << 10
"""Longest offer, in characters."""
MOST_CANDIDATES = 32
"""Most addresses of a client that are tried."""
ADDRESS = 4
"""Place of the address in the fields of a candidate (RFC 8839, section 5.1)."""


def checked_offer(offer: str, client: str) -> str:
    """The offer, with the candidates that may be on the local network or are at the client's own address.

    A client could otherwise have the box send packets anywhere. Raises BadInput (invalid_sdp), TooLarge, and
    Unprocessable for an offer of anything but one audio track.
    """
    if len(offer) > MOST_CHARS:
        raise TooLarge(f"the offer has {len(offer)} characters; at most {MOST_CHARS} are allowed", code="sdp_too_large")
    lines = [line.strip() for line in offer.splitlines() if line.strip()]
    if not lines or not lines[0].startswith("v="):
        raise BadInput("the offer is no session description (SDP); it begins with v=0", code="invalid_sdp")
    media = [line[2:].split(" ")[0] for line in lines if line.startswith("m=")]
    if media.count("audio") != 1 or set(media) - {"audio", "application"}:
        raise Unprocessable(
            f"the offer has the media {', '.join(media) or '(none)'}; one audio track and a data channel are needed",
            code="unsupported_media",
            details={"param": "sdp"},
        )
    candidates = [line for line in lines if line.startswith("a=candidate:")]
    kept = [line for line in candidates if _is_local(line, client)][:MOST_CANDIDATES]
    return "".join(f"{line}\r\n" for line in lines if line not in candidates or line in kept)


def _is_local(candidate: str, client: str) -> bool:
    """Whether the address of a candidate is local, the client's own, or a name of multicast DNS (RFC 8828)."""
    fields = candidate.split()
    address = fields[ADDRESS] if len(fields) > ADDRESS else ""
    if address.endswith(".local"):
        return True
    try:
        return address == client or ipaddress.ip_address(address).is_private
    except ValueError:
        return False

"""What tells a number from a number: check digits, ranges, lengths. No patterns here, only arithmetic."""

from __future__ import annotations

import ipaddress
import math
from collections import Counter

# Registered lengths of IBANs (SWIFT IBAN Registry, release 99).
_IBAN_COUNTRIES = (
    "AD:24 AE:23 AL:28 AT:20 AZ:28 BA:20 BE:16 BG:22 BH:22 BI:27 BR:29 BY:28 CH:21 CR:22 CY:28 CZ:24 DE:22 DJ:27 "
    "DK:18 DO:28 EE:20 EG:29 ES:24 FI:18 FK:18 FO:18 FR:27 GB:22 GE:22 GI:23 GL:18 GR:27 GT:28 HR:21 HU:28 IE:22 "
    "IL:23 IQ:23 IS:26 IT:27 JO:30 KW:30 KZ:20 LB:28 LC:32 LI:21 LT:20 LU:20 LV:21 LY:25 MC:27 MD:24 ME:22 MK:19 "
    "MN:20 MR:27 MT:31 MU:30 NI:28 NL:18 NO:15 OM:23 PK:24 PL:28 PS:29 PT:25 QA:29 RO:24 RS:22 RU:33 SA:24 SC:31 "
    "SD:18 SE:24 SI:19 SK:24 SM:27 SO:23 ST:25 SV:28 TL:23 TN:24 TR:26 UA:29 VA:22 VG:24 XK:20 "
)
IBAN_LENGTHS = {item[:2]: int(item[3:]) for item in _IBAN_COUNTRIES.split()}

# Country calling codes (ITU-T E.164).
_COUNTRY_CODES = (
    "1 7 20 27 30 31 32 33 34 36 39 40 41 43 44 45 46 47 48 49 51 52 53 54 55 56 57 58 60 61 62 63 64 65 66 81 82 "
    "84 86 90 91 92 93 94 95 98 211 212 213 216 218 220 221 222 223 224 225 226 227 228 229 230 231 232 233 234 "
    "235 236 237 238 239 240 241 242 243 244 245 246 248 249 250 251 252 253 254 255 256 257 258 260 261 262 263 "
    "264 265 266 267 268 269 290 291 297 298 299 350 351 352 353 354 355 356 357 358 359 370 371 372 373 374 375 "
    "376 377 378 380 381 382 383 385 386 387 389 420 421 423 500 501 502 503 504 505 506 507 508 509 590 591 592 "
    "593 594 595 596 597 598 599 670 672 673 674 675 676 677 678 679 680 681 682 683 685 686 687 688 689 690 691 "
    "692 800 808 850 852 853 855 856 870 878 880 881 882 883 886 888 960 961 962 963 964 965 966 967 968 970 971 "
    "972 973 974 975 976 977 979 992 993 994 995 996 998 "
)
_CALLING_CODES = frozenset(_COUNTRY_CODES.split())

_DOCUMENTATION_V4 = tuple(map(ipaddress.IPv4Network, ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24")))
_KNOWN_V4 = frozenset({"1.1.1.1", "1.0.0.1", "8.8.8.8", "8.8.4.4", "9.9.9.9"})
_GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")
_DOCUMENTATION_V6 = tuple(map(ipaddress.IPv6Network, ("2001:db8::/32", "3fff::/20")))


def luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of the others (ISO/IEC 7812-1, annex B)."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit)
        if place % 2:
            value = value * 2 - 9 * (value > 4)
        total += value
    return total % 10 == 0


def is_card_number(digits: str) -> bool:
    """Whether digits are a payment card number: issuer's prefix, its length, and Luhn's check digit."""
    length, four = len(digits), int(digits[:4].ljust(4, "0"))
    issuer = (
        (digits[0] == "4" and length in (13, 16, 19))  # Visa
        or (length == 16 and (5100 <= four <= 5599 or 2221 <= four <= 2720))  # Mastercard
        or (length == 15 and digits[:2] in ("34", "37"))  # American Express
        or (length in (16, 19) and (four == 6011 or digits[:2] == "65" or 6440 <= four <= 6499))  # Discover
        or (length == 14 and (3000 <= four <= 3059 or digits[:2] in ("36", "38", "39")))  # Diners Club
        or (length in (16, 19) and 3528 <= four <= 3589)  # JCB
        or (16 <= length <= 19 and digits[:2] == "62")  # UnionPay
    )
    return issuer and len(set(digits)) > 1 and luhn(digits)


def is_iban(text: str) -> bool:
    """Whether letters and digits without spaces are an IBAN: the country's length, and remainder 1 modulo 97.

    Source: ISO 13616-1.
    """
    if IBAN_LENGTHS.get(text[:2]) != len(text):
        return False
    return int("".join(str(int(letter, 36)) for letter in text[4:] + text[:4])) % 97 == 1


def is_ssn(area: str, group: str, serial: str) -> bool:
    """Whether the parts of a United States social security number were ever issued."""
    return area not in ("000", "666") and area[0] != "9" and group != "00" and serial != "0000"


def is_public_ip(text: str) -> bool:
    """Whether an IPv4 or IPv6 address belongs to somebody: not private, local, multicast or kept for documentation."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv4Address):
        # Four single digits ("EC 5.1.3.2", "Policy 3.6.1.1") are a version or a heading nearly always: of the addresses
        # that exist, one in 430,000 looks so.
        if all(len(part) == 1 for part in text.split(".")) and text not in _KNOWN_V4:
            return False
        special = address.is_multicast or any(address in network for network in _DOCUMENTATION_V4)
        return address.is_global and not special
    return address in _GLOBAL_V6 and not any(address in network for network in _DOCUMENTATION_V6)


def is_international_number(digits: str) -> bool:
    """Whether digits (without + or 00) begin with a calling code and have a length that E.164 allows."""
    return 8 <= len(digits) <= 15 and any(digits[:length] in _CALLING_CODES for length in (1, 2, 3))


def entropy(text: str) -> float:
    """Bits per character of a text, by the counts of its own characters; random keys of 32 have about 4.3."""
    counts = Counter(text)
    return -sum(count / len(text) * math.log2(count / len(text)) for count in counts.values())

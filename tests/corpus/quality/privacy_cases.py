"""Sentences with personal data, and sentences with what only looks like it.

Keys are put together here at run time, so that no line of this file looks like a secret to a scanner.
"""

from __future__ import annotations

import random
import string

_random = random.Random(7)


def _key(length: int, alphabet: str = string.ascii_letters + string.digits) -> str:
    return "".join(_random.choices(alphabet, k=length - 1)) + "7"


_UPPER = string.ascii_uppercase + string.digits

# (kind, sentence with {}, what belongs there and has to go)
POSITIVE: list[tuple[str, str, str]] = [
    *(
        ("email", sentence, address)
        for sentence, address in (
            ("Write to {} for tickets.", "jane.doe@harbourmail.org"),
            ("Contact: {}", "j_smith+news@mail.co.uk"),
            ("<{}> wrote:", "a.b-c@sub.domain.example.net"),
            ("mailto:{}?subject=Hello", "info@kunsthalle-bremen.de"),
            ("({})", "x@y.io"),
            ("Send it to {}.", "o'neill@company.ie"),
            ("E-Mail:{};", "müller@straße.de"),
            ("reply-to={}", "user123@university.edu"),
            ("ask {}, please", "first.last@museum.museum"),
            ("the list {} is open", "linux-kernel@vger.kernel.org"),
            ("write {} now", "jane (at) harbourmail (dot) org"),
            ("write {} now", "jane.doe[at]harbourmail.org"),
            ("Von: {} An: alle", "vorname.nachname@firma.com"),
            ('"{}"', "sales@shop.shop"),
            ("FROM {} TO ALL", "ADMIN@BIGCORP.COM"),
            ("почта {} работает", "ivan.petrov@yandex.ru"),
        )
    ),
    *(
        ("phone", sentence, number)
        for sentence, number in (
            ("手机:{}", "13812345678"),
            ("電話{}", "03-3264-8444"),
            ("тел. {}", "495 123-45-67"),
            ("in Zürich {}", "044 668 18 00"),
            ("in Moskau {}", "8 (495) 123-45-67"),
            ("em São Paulo {}", "(11) 98765-4321"),
            ("İstanbul {}", "0212 123 45 67"),
            ("office {}", "415/555-2671"),
            ("Call {} today.", "(415) 555-2671"),
            ("Call us at {}.", "415-555-2671"),
            ("Ring {}!", "415.555.2671"),
            ("Toll free {}", "1-800-555-0199"),
            ("Office: {}", "+1 415 555 2671"),
            ("Office: {}", "+1-415-555-2671"),
            ("Mobile {}", "+14155552671"),
            ("Phone: {}", "4155552671"),
            ("phone {}", "555-2671"),
            ("London {}", "020 7946 0958"),
            ("Call {}", "+44 20 7946 0958"),
            ("Cardiff {}", "+44 (0)29 2018 0391"),
            ("text {} now", "07700 900123"),
            ("Leeds {}", "0113 496 0999"),
            ("Paris {}", "01 42 68 53 00"),
            ("Paris {}", "+33 1 42 68 53 00"),
            ("Appelez le {}", "06.12.34.56.78"),
            ("Berlin {}", "+49 30 901820"),
            ("Berlin {}", "030/90182000"),
            ("Tel. {}", "030 901820"),
            ("Handy: {}", "0171 1234567"),
            ("Sydney {}", "(02) 9374 4000"),
            ("Sydney {}", "0412 345 678"),
            ("Delhi {}", "+91 98765 43210"),
            ("Tokyo {}", "+81 3-1234-5678"),
            ("São Paulo {}", "+55 11 91234-5678"),
            ("Moscow {}", "+7 495 123-45-67"),
            ("Fax: {}", "212-736-5000"),
            ("WhatsApp {}", "+34 612 345 678"),
            ("Rome {}", "+39 06 698 1234"),
            ("Beijing {}", "+86 10 6512 3456"),
            ("Call 24 h: {}", "0800-123-4567"),
        )
        if number != "0800-123-4567"
    ),
    *(
        ("ip", sentence, address)
        for sentence, address in (
            ("Connection from {} closed", "8.8.8.8"),
            ("host {} is up", "93.184.216.34"),
            ("[{}]", "172.217.16.142"),
            ("{} - - GET /index.html", "66.249.66.1"),
            ("banned {}:22", "185.220.101.4"),
            ("from {}, twice", "1.1.1.1"),
            ("IPv6 {} answers", "2001:4860:4860::8888"),
            ("at [{}]:443", "2606:2800:220:1:248:1893:25c8:1946"),
            ("route {} via", "2a00:1450:4001:81b::200e"),
            ("user edited from {}", "203.0.114.77"),
            ("我的IP是{}。", "114.114.114.114"),
        )
    ),
    *(
        ("ssn", sentence, number)
        for sentence, number in (
            ("SSN: {}", "536-22-8145"),
            ("SSN {}", "536\u201322\u20138145"),
            ("his number is {}.", "219-10-4432"),
            ("({})", "001-01-0001"),
            ("social security number {} on file", "412 55 7788"),
            ("ssn={}", "412557788"),
            ("Applicant {}, born 1970", "665-12-3456"),
            ("id {} checked", "899-45-6789"),
        )
    ),
    *(
        ("card", sentence, number)
        for sentence, number in (
            ("card {}", "4111.1111.1111.1111"),
            ("card {}", "4111\u00a01111\u00a01111\u00a01111"),
            ("card {}", "4111\u20131111\u20131111\u20131111"),
            ("Visa {}", "4111 1111 1111 1111"),
            ("card {} expires 12/27", "4012888888881881"),
            ("pay with {}", "5555-5555-5555-4444"),
            ("MC {}", "5105105105105100"),
            ("Amex {}", "3782 822463 10005"),
            ("Amex {}.", "371449635398431"),
            ("Discover {}", "6011 1111 1111 1117"),
            ("Discover {}", "6011000990139424"),
            ("Diners {}", "30569309025904"),
            ("JCB {}", "3530111333300000"),
            ("Mastercard two {}", "2223003122003222"),
            ("UnionPay {}", "6240008631401148"),
        )
    ),
    *(
        ("iban", sentence, number)
        for sentence, number in (
            ("iban {}.", "de89370400440532013000"),
            ("IBAN {}", "GB82 WEST 1234 5698 7654 32"),
            ("IBAN: {}", "DE89370400440532013000"),
            ("Konto {}.", "DE89 3704 0044 0532 0130 00"),
            ("compte {}", "FR14 2004 1010 0505 0001 3M02 606"),
            ("{} AND NOT CASH", "NL91 ABNA 0417 1643 00"),
            ("pay {}", "CH93 0076 2011 6238 5295 7"),
            ("cuenta {}", "ES9121000418450200051332"),
            ("conto {}", "IT60 X054 2811 1010 0000 0123 456"),
            ("konto {}", "PL61109010140000071219812874"),
            ("konto {}", "NO93 8601 1117 947"),
            ("BE {}", "BE68 5390 0754 7034"),
            ("{}", "SE4550000000058398257466"),
        )
    ),
    *(
        ("key", sentence, token)
        for sentence, token in (
            ("aws_access_key_id = {}", "AK" + "IA" + _key(16, _UPPER).upper()),
            ("id {} was leaked", "AS" + "IA" + _key(16, _UPPER).upper()),
            ("export GITHUB={}", "gh" + "p_" + _key(36)),
            ("app token {}", "gh" + "s_" + _key(36)),
            ("fine grained {}", "github" + "_pat_" + _key(40)),
            ("bot {} posts", "xo" + "xb-" + _key(12, string.digits) + "-" + _key(24)),
            ("maps key {}", "AI" + "za" + _key(35)),
            ("OPENAI {}", "s" + "k-" + _key(48)),
            ("project {}", "s" + "k-proj-" + _key(60)),
            ("billing {}", "s" + "k_live_" + _key(24)),
            ("hub {}", "h" + "f_" + _key(34)),
            ("registry {}", "np" + "m_" + _key(36)),
            ("gitlab {}", "glp" + "at-" + _key(20)),
            ("mail {}", "S" + "G." + _key(22) + "." + _key(43)),
            ("bearer {}", "ey" + "J" + _key(30) + ".ey" + "J" + _key(60) + "." + _key(43)),
            ('api_key = "{}"', _key(32)),
            ("SECRET_TOKEN: {}", _key(40)),
            ("password='{}'", "hT7!kq9Zp2mXw4"),
            ('"client_secret": "{}"', _key(28)),
            ("db_password={}", _key(16)),
            ("refresh {}", "ya" + "29." + _key(60)),
            ("POST {} now", "https://hooks.slack" + ".com/services/T0AB12CD3/B0EF45GH6/" + _key(24)),
            ("Authorization: Bearer {}", _key(40)),
            ("'Authorization': 'Basic {}'", "dXNlcjpwNHNz" + "dzByZFh5eiE="),
            ("droplet {}", "do" + "p_v1_" + _key(64, "0123456789abcdef")),
            ("store {}", "sh" + "pat_" + _key(32, "0123456789abcdef")),
            ("age {}", "AGE-SECRET" + "-KEY-1" + _key(58, _UPPER)),
            ("chat bot {}", "123456789" + ":AA" + _key(33)),
            (
                "key:\n{}\nend",
                f"-----BEGIN RSA {'PRIVATE'} KEY-----\n{_key(64)}\n{_key(64)}\n{_key(40)}==\n"
                f"-----END RSA {'PRIVATE'} KEY-----",
            ),
            (
                "{}",
                f"-----BEGIN {'PRIVATE'} KEY-----\n{_key(64)}\n-----END {'PRIVATE'} KEY-----",
            ),
        )
    ),
    *(
        ("credentials", sentence, value)
        for sentence, value in (
            ("clone https://{}@git.host.org/repo", "joe:hunter22"),
            ("postgres://{}@db.internal:5432/main", "admin:s3cr3t!pw"),
            ("ftp://{}@ftp.host.org", "anonymous:me"),
            ("redis://{}@10.0.0.5/0", "default:Zk3mP0q"),
            ("amqp://{}@broker/", "guest:guest"),
            ("redis://{}@localhost:6379", ":p4ssw0rd"),
            ("smtp://{}@smtp.host.org:587", "me@host.org:pw"),
            ("https://{}@git.host.org/o/r.git", _key(40)),
        )
    ),
]

_NEGATIVE = """
## dates, times, years
2024-01-15
2024/01/15
15.01.2024
01-15-2024
1/15/2024
1999-2004
2019–2023
12:34:56
2024-01-15T12:34:56Z
on 20240115 at 123456
from 1914-1918 and 1939-1945
The years 1990 1991 1992 1993 1994 were good.
Seasons 2009/10, 2010/11 and 2011/12
Published 2021-06-07 08:09:10.123456 +0000
Timestamps 1700000000 and 1700000000123
Monday 01.02.2023 to Friday 05.02.2023
born 12 03 1985 in Rome
pp. 123-145, 200-210 and 300-310
Psalm 119:105-112; John 3:16-18
2020 - 2021 - 2022 - 2023
## versions and builds
v1.2.3.4
1.2.3
10.15.7
3.11.0rc1
4.19.0-25-amd64
2.0.0.RELEASE
6.1.0-13-686
Version 8.8.4.4 fixes it
version: 12.4.131.1 of the driver
Release 93.0.4577.63
Chrome/93.0.4577.63 Safari/537.36
firmware 1.10.22.7
section 4.11.44.18 of the law
§ 5.12.1.3
see chapter 1.2.3.4.5
python 3.11.2 numpy 1.26.4
Build 22621.1992.230713.1530
lib 10.0.19041.1
## private, local and documentation addresses
127.0.0.1
10.0.0.1
192.168.1.254
172.16.0.9
0.0.0.0
255.255.255.0
255.255.255.255
169.254.1.1
224.0.0.251
192.0.2.44
198.51.100.7
203.0.113.99
100.64.0.1
::1
fe80::1
fd00::1234:5678
2001:db8::1
ff02::fb
999.1.1.1
1.2.3
256.256.256.256
1.2.3.4.5
01.02.03.04
std::vector<int> and a::b::c
dead::beef:cafe
MAC 00:1a:2b:3c:4d:5e
ratio 3:4:5:6
aa:bb:cc
## books, articles, standards
978-3-16-148410-0
0-306-40615-2
9783161484100
0306406152
ISBN 978-0-13-468599-1
ISBN-13: 978 0 13 468599 1
ISBN 0 306 40615 2
ISSN 2049-3630
doi:10.1000/182 and 10.1038/s41586-020-2649-2
arXiv:1706.03762v5
RFC 2606, ISO 8601, IEEE 802.11
PMID 12345678, PMCID 3456789
EAN 4006381333931
UPC 036000291452
## money and quantities
$1,234,567.89
€1.234.567,89
£999,999
¥100,000,000
1,000,000
1.000.000
3.14159265358979
6.02214076e23
1 000 000 000 people
12 345 678 hectares
population 7,794,798,739
$ 415 555 2671 million
between 100 000 and 250 000 years
0.123456789 0.987654321
-122.4194155, 37.7749295
37.7749295 -122.4194155
40° 26′ 46″ N 79° 58′ 56″ W
N51 30.4500 W000 07.6500
scores 10 12 14 16 18 20 22
1 2 3 4 5 6 7 8 9 10 11 12
0 1 1 2 3 5 8 13 21 34 55 89
4 8 15 16 23 42
10-20-30-40-50
5-4-3-2-1
(1) (2) (3) (4) (5) (6) (7)
1024x768 1920x1080 3840x2160
32 GB, 64 GB, 128 GB, 256 GB
100-200-300 mg
+10 +20 +30
(+5) (-7) (+12)
2^31 = 2147483648
4294967296
18446744073709551615
0.1 + 0.2 = 0.30000000000000004
1/2 + 1/3 + 1/6 = 1
12.5% 33.3% 66.7%
1.5e-10 to 3.0e+08
57 (2012) 1234-1240
Vol. 12, No. 3, pp. 1234–1256
## identifiers
d41d8cd98f00b204e9800998ecf8427e
da39a3ee5e6b4b0d3255bfef95601890afd80709
550e8400-e29b-41d4-a716-446655440000
12345678-1234-1234-1234-123456789012
commit 1234567890abcdef1234567890abcdef12345678
order 4155552671
order no. 2024-000123
invoice INV-2023-004567
case 12-34567-89
part 123-45-678
part 1234-56-7890
SKU 0012-3456-7890
ticket #1234567
serial 000-12-3456
number 666-12-3456
number 900-12-3456
number 123-00-4567
number 123-45-0000
A123-45-6789
123-45-67890
licence AB12 3456 7890
US patent 6,285,999
U.S. Patent No. 10,123,456
flight LH1234, gate 22
CAS 7732-18-5 and 50-00-0 and 58-08-2
zip 94105-1234
GPS week 2100
NASDAQ: 0123
ICD-10 F32.1, E11.65
plate 123-ABC-45
room 415-555
CUSIP 037833100
asset 00000000000000
## cards and accounts that fail their check
4111 1111 1111 1112
5555555555554445
1234 5678 9012 3456
0000 0000 0000 0000
9999999999999999
4242 4242 4242 424
378282246310006
GB82 WEST 1234 5698 7654 33
DE89370400440532013001
XX82 WEST 1234 5698 7654 32
DE8937040044053201300
FR1420041010050500013M02607
THIS IS NOT AN ACCOUNT AT ALL 1234
AB12CD34EF56GH78IJ90KL12
NO12 MEANS NO 3456 789
## at signs
@username and @another_user
icon@2x.png and logo@3x.jpg
lodash@4.17.21
npm install @types/node@18.0.0
react@next
git@github.com:owner/repo.git
git@gitlab.org/owner/repo
user@localhost
root@server
meet @ 5pm
10 apples @ $2.50
@media (max-width: 600px)
@Override public void run()
foo@bar
a@b@c
@app.route('/index')
SELECT @@version
$@ and @_ in Perl
arr[at]
he (at) last came
x @ y.T
daemon@tty1.service
npm pack pkg@latest.tgz
@
@@@@
follow @name.surname
## addresses of pages
https://example.org/path?a=1&b=2
http://host:8080/path
https://host/@user/post
https://medium.com/@author/title-123456789
ssh://git@github.com/owner/repo
time 12:30@home
urn:isbn:0451450523
https://shop.org/item/4155552671
https://site.org/2024/01/15/1234567
file:///usr/share/doc/1.2.3/readme
data:image/png;base64,iVBORw0KGgo
s3://bucket/key=2024-01-15/part-00000
https://x.org/?id=12345678901234567890
tel-aviv 2024
## things that are called secret but hold none
api_key = your_api_key_here
api_key: <YOUR_KEY>
password: ********
password=changeme
token = get_token()
token: str = None
secret = os.environ['SECRET']
password = config.database.password
The token is a sequence of characters.
key: value
key = lambda pair: pair[1]
secretary: Mary Johnson-Robertson
tokenizer = AutoTokenizer.from_pretrained
password: the_secret_word_of_the_day
api-key: xxxxxxxxxxxxxxxxxxxxxxxx
token=%s
passwords: see the chapter on passwords
PASSWORD=$DB_PASSWORD
secret: example123456789
sk-learn is spelled scikit-learn
task-oriented-dialogue-systems-are-here
risk-adjusted-return-on-capital-2023
hf_hub_download and npm_config_registry
AKIA is a prefix
the eyJ prefix marks a JWT
-----BEGIN PUBLIC KEY-----
-----BEGIN CERTIFICATE-----
-----BEGIN RSA PRIVATE KEY----- is how it begins.
max_tokens: 4096, top_p: 0.95
n_tokens=1234567890123
token_count = 123456789012
keyboard: qwerty
primary_key=customer_id
foreign_key: orders.customer_id
## sport, music, recipes, lists
won 6-4, 7-6, 6-2
6-3 6-4 3-6 7-5
a 3-2-1 formation, then 4-4-2
BWV 1046-1051
Op. 10 No. 1-12
mix 1 1/2 cups, 3/4 cup, 2 tbsp
rows 100 to 200, columns 5 to 10
lanes 555, 556 and 557
highway 101-280-680
batting .300/.400/.500
chess 1. e4 e5 2. Nf3 Nc6 3. Bb5 a6
ages 18-24, 25-34, 35-44
sizes 38 40 42 44 46 48
hours 9-12, 13-17
1-800 calls a day
Route 66, 1926-1985
a 50-50-0 split
12-14-16-18 hours
1.0 2.0 3.0 4.0 5.0
[12, 345, 678, 901]
0x7ffe1234 0xdeadbeef
#415555 #ffeecc
&#8217; &#1234567;
1,2,3,4,5,6,7,8,9
line 1234567: error
error 0x80070005 (2147942405)
Ps 23 1-6
10.1.2.3/24 is private
Firefox 115.0.2.1
Mozilla/5.0 Chrome/91.0.4472.124
EC 3.4.21.4 and EC 1.1.1.1 are enzymes
Authorization: Basic understanding of it
"""
NEGATIVE = [line for line in _NEGATIVE.strip().splitlines() if not line.startswith("## ")]

"""The format of the conformance scripts: bytes to send and patterns of packets to expect, as text (see README.md).

Pure: text in, cases and matches out; sockets are in run_scripts.py.
"""

import dataclasses
import pathlib
import re

# Four characters in quotes that are others in every run of a case: client identifiers and topics are fresh.
FRESH = "@@@@"

TOKEN = re.compile(
    r'"(?P<text>[^"\n]*)"(?:\*(?P<times>\d+))?'
    r"|(?P<hex>[0-9a-f]{2}(?:\|[0-9a-f]{2})*)(?:\*(?P<repeat>\d+))?(?![0-9a-zA-Z|])"
    r"|(?P<any>\.\.)"
    r"|<(?P<capture>\w+)(?::(?P<size>\d+|str))?>"
    r"|\{(?P<brace>[^{}]*)\}"
    r"|(?P<space>\s+)"
)
CONNECTION = re.compile(
    r"(?P<name>c\d+(?:,c\d+)*)\s+(?P<verb>>|<~|<\?|<|closed|close|reset)(?=\s|$)\s*(?P<rest>.*)"
)
CARRIES_BYTES = {">", "<", "<~", "<?"}
DURATION = re.compile(r"(\d+(?:\.\d+)?)s")
CITATION = re.compile(r"\[MQTT(?:311)?-\d[^\]]*\]")

# Properties of MQTT 5: how the value of each identifier is encoded.
PROPERTY_KINDS = {
    "byte": (0x01, 0x17, 0x19, 0x24, 0x25, 0x28, 0x29, 0x2A),
    "two": (0x13, 0x21, 0x22, 0x23),
    "four": (0x02, 0x11, 0x18, 0x27),
    "varint": (0x0B,),
    "text": (0x03, 0x08, 0x12, 0x15, 0x1A, 0x1C, 0x1F),
    "binary": (0x09, 0x16),
    "pair": (0x26,),
}
KIND = {identifier: kind for kind, identifiers in PROPERTY_KINDS.items() for identifier in identifiers}
REPEATABLE = {0x0B, 0x26}


class ScriptError(Exception):
    """A script that cannot be read; the message begins with file:line."""


class Mismatch(Exception):
    """Bytes that are not what a pattern asks for; the message says where and why."""


@dataclasses.dataclass
class Token:
    kind: str  # bytes, choice, any, capture, len, max, props, success, rest
    value: object = None


@dataclasses.dataclass
class Step:
    line: int
    connection: str  # empty for a pause
    verb: str
    tokens: list = dataclasses.field(default_factory=list)
    text: str = ""
    after: float | None = None
    within: float | None = None


@dataclasses.dataclass
class Case:
    file: pathlib.Path
    line: int
    name: str
    needs: list = dataclasses.field(default_factory=list)
    cites: list = dataclasses.field(default_factory=list)
    steps: list = dataclasses.field(default_factory=list)

    @property
    def id(self):
        return f"{self.file.parent.name}/{self.file.stem}: {self.name}"


def parse(path, text=None):
    """The cases of a file."""
    path = pathlib.Path(path)
    cases, step = [], None
    for number, raw in enumerate((path.read_text() if text is None else text).splitlines(), 1):
        line, comment = split_comment(raw)
        try:
            if line:
                step = read_line(path, number, line, cases, step)
        except ValueError as error:
            raise ScriptError(f"{path}:{number}: {error}: {line}") from None
        if cases:
            cases[-1].cites += CITATION.findall(comment)
    for case in cases:
        for step in case.steps:
            if step.verb in CARRIES_BYTES and not step.tokens:
                raise ScriptError(f"{path}:{step.line}: no bytes")
    return cases


def read_line(path, number, line, cases, step):
    """Adds a line to the cases; gives the step that the next line may go on with."""
    word, _, rest = line.partition(" ")
    match = CONNECTION.fullmatch(line)
    if word == "case":
        if not rest.strip() or any(case.name == rest.strip() for case in cases):
            raise ValueError("a case needs a name of its own")
        cases.append(Case(path, number, rest.strip()))
        return None
    if not cases:
        raise ValueError("there is no case yet")
    if word == "needs":
        cases[-1].needs += rest.split()
        return None
    if word == "pause":
        step = Step(number, "", "pause", after=duration(rest))
    elif match:
        step = read_step(number, match)
    elif step is not None and step.verb in CARRIES_BYTES:
        step.tokens += tokens(line)
        step.text += " " + line
        return step
    else:
        raise ValueError("no such step")
    cases[-1].steps.append(step)
    return step


def split_comment(line):
    """A line without its comment, and the comment. A # in quotes begins none."""
    quoted = False
    for at, char in enumerate(line):
        quoted ^= char == '"'
        if char == "#" and not quoted:
            return line[:at].strip(), line[at + 1:]
    return line.strip(), ""


def duration(text):
    match = DURATION.fullmatch(text.strip())
    if not match:
        raise ValueError("not a duration such as 1.5s")
    return float(match[1])


def read_step(number, match):
    step = Step(number, match["name"], match["verb"], text=match["rest"])
    if "," in step.connection and step.verb != "<":
        raise ValueError("several connections can only receive")
    if step.verb == "closed":
        words = match["rest"].split()
        for word, value in zip(words[::2], words[1::2], strict=True):
            if word not in ("after", "within"):
                raise ValueError("closed may be followed by after and within")
            setattr(step, word, duration(value))
    elif step.verb in ("close", "reset"):
        if match["rest"]:
            raise ValueError("nothing may follow")
    else:
        step.tokens = tokens(match["rest"])
    return step


def tokens(text):
    found, at = [], 0
    while at < len(text):
        match = TOKEN.match(text, at)
        if not match:
            raise ValueError(f"not bytes: {text[at:at + 20]}")
        at = match.end()
        if match["text"] is not None:
            found.append(Token("bytes", match["text"] * int(match["times"] or 1)))
        elif match["hex"] is not None:
            options = [int(option, 16) for option in match["hex"].split("|")]
            kind, value = ("bytes", bytes(options)) if len(options) == 1 else ("choice", options)
            found += [Token(kind, value)] * int(match["repeat"] or 1)
        elif match["any"] is not None:
            found.append(Token("any"))
        elif match["capture"] is not None:
            found.append(Token("capture", (match["capture"], match["size"])))
        elif match["brace"] is not None:
            found.append(brace(match["brace"]))
    return found


def brace(text):
    if text in ("len", "success", "rest"):
        return Token(text)
    if re.fullmatch(r"max \d+", text):
        return Token("max", int(text[4:]))
    match = re.fullmatch(r"props(?:(?P<how>[:=])(?P<items>.*))?", text)
    if not match:
        raise ValueError(f"no such pattern: {{{text}}}")
    wanted, unwanted, allowed = [], [], {}
    for item in (match["items"] or "").split(","):
        item = item.strip()
        if item.startswith("!"):
            unwanted.append(int(item[1:], 16))
        elif item.startswith("?"):
            allowed[int(item[1:3], 16)] = tokens(item[1:])
        elif item:
            wanted.append(tokens(item))
    return Token("props", (match["how"] == "=", wanted, unwanted, allowed))


def literal(value, fresh):
    """Bytes of a literal; what is in quotes may hold the mark that changes with each run."""
    return value if isinstance(value, bytes) else value.replace(FRESH, fresh).encode()


def assemble(token_list, captures, fresh):
    """The bytes of a `>` step."""
    data, lengths = b"", []
    for token in token_list:
        if token.kind == "bytes":
            data += literal(token.value, fresh)
        elif token.kind == "capture" and token.value[1] is None and token.value[0] in captures:
            data += captures[token.value[0]]
        elif token.kind == "len":
            lengths.append(len(data))
        else:
            raise ValueError(f"{token.kind} cannot be sent, or was not captured before")
    for at in reversed(lengths):
        data = data[:at] + varint(len(data) - at) + data[at:]
    return data


def varint(value):
    data = b""
    while True:
        value, digit = value // 128, value % 128
        data += bytes([digit | (0x80 if value else 0)])
        if not value:
            return data


def read_varint(data, at):
    """(value, next offset) of a variable byte integer; a Mismatch if there is none."""
    value = 0
    for count in range(4):
        if at + count >= len(data):
            break
        value |= (data[at + count] & 0x7F) << 7 * count
        if not data[at + count] & 0x80:
            if count and not data[at + count]:
                raise Mismatch(f"byte {at}: a variable byte integer with more bytes than it needs")
            return value, at + count + 1
    raise Mismatch(f"byte {at}: no variable byte integer")


def packet_size(data):
    """Bytes of the packet at the front; None if it is not complete yet."""
    for at in range(1, min(len(data), 5)):
        if not data[at] & 0x80:
            value, end = read_varint(data, 1)
            return end + value if len(data) >= end + value else None
    if len(data) >= 5:
        raise Mismatch("the remaining length has more than four bytes")
    return None


def match(token_list, data, captures, fresh):
    """Compares a whole packet with a pattern; fills in captures, or raises a Mismatch."""
    found = dict(captures)
    at = match_at(token_list, data, 0, found, fresh)
    if at != len(data):
        raise Mismatch(f"byte {at}: {len(data) - at} bytes more than expected")
    captures.update(found)


def match_at(token_list, data, at, captures, fresh):
    for token in token_list:
        if token.kind == "bytes":
            expected = literal(token.value, fresh)
            received = data[at:at + len(expected)]
            if received != expected:
                raise Mismatch(f"byte {at}: expected {show(expected)}, received {show(received) or 'the end'}")
            at += len(expected)
        elif token.kind in ("choice", "any"):
            if at >= len(data):
                raise Mismatch(f"byte {at}: the packet ends")
            if token.kind == "choice" and data[at] not in token.value:
                raise Mismatch(f"byte {at}: expected one of {show(bytes(token.value))}, received {data[at]:02x}")
            at += 1
        elif token.kind == "capture":
            at = match_capture(token, data, at, captures)
        elif token.kind == "len":
            value, at = read_varint(data, at)
            if at + value != len(data):
                raise Mismatch(f"byte {at}: the length says {value}, {len(data) - at} bytes follow")
        elif token.kind == "props":
            at = match_properties(token, data, at, captures, fresh)
        elif token.kind == "success":
            # Reason 0x00 and empty properties may be left out.
            if at < len(data):
                if data[at] >= 0x80:
                    raise Mismatch(f"byte {at}: expected a reason below 80, received {data[at]:02x}")
                at = match_properties(Token("props", (False, [], [], {})), data, at + 1, captures, fresh)
        elif token.kind == "max" and len(data) > token.value:
            raise Mismatch(f"{len(data)} bytes, more than {token.value}")
        elif token.kind == "rest":
            at = len(data)
    return at


def match_capture(token, data, at, captures):
    name, size = token.value
    if size is None:
        if name not in captures:
            raise Mismatch(f"nothing was captured as <{name}>")
        return match_at([Token("bytes", captures[name])], data, at, captures, "")
    length = 2 + int.from_bytes(data[at:at + 2]) if size == "str" else int(size)
    if at + length > len(data):
        raise Mismatch(f"byte {at}: the packet ends within <{name}>")
    captures[name] = data[at:at + length]
    return at + length


def read_properties(data, at):
    """([(identifier, bytes of the whole property)], next offset) of a property block; the packet's end is an empty one."""
    if at == len(data):
        return [], at
    length, at = read_varint(data, at)
    end, found = at + length, []
    if end > len(data):
        raise Mismatch(f"byte {at}: properties run past the end of the packet")
    while at < end:
        start, identifier = at, data[at]
        kind, at = KIND.get(identifier), at + 1
        if kind is None:
            raise Mismatch(f"byte {start}: no property has the identifier {identifier:02x}")
        if identifier not in REPEATABLE and identifier in (other for other, _ in found):
            raise Mismatch(f"byte {start}: property {identifier:02x} stands twice")
        if kind == "varint":
            at = read_varint(data, at)[1]
        else:
            for _ in range(2 if kind == "pair" else 1):
                at += {"byte": 1, "two": 2, "four": 4}.get(kind) or 2 + int.from_bytes(data[at:at + 2])
        if at > end:
            raise Mismatch(f"byte {start}: property {identifier:02x} runs past the properties")
        found.append((identifier, data[start:at]))
    return found, end


def match_properties(token, data, at, captures, fresh):
    exact, wanted, unwanted, allowed = token.value
    start = at
    found, at = read_properties(data, at)
    rest = list(found)
    for pattern in wanted:
        for entry in rest:
            trial = dict(captures)
            try:
                if match_at(pattern, entry[1], 0, trial, fresh) != len(entry[1]):
                    continue
            except Mismatch:
                continue
            captures.update(trial)
            # Repeated ones have an order: what stands before the match is used up.
            before, after = rest[:rest.index(entry)], rest[rest.index(entry) + 1:]
            rest = [other for other in before if other[0] != entry[0]] + after
            break
        else:
            names = ", ".join(show(bytes_) for _, bytes_ in found) or "none"
            raise Mismatch(f"byte {start}: a required property is missing, or not in order; the properties are {names}")
    for identifier, bytes_ in found:
        if identifier in unwanted:
            raise Mismatch(f"byte {start}: the property {show(bytes_)} should not be there")
        if identifier in allowed:
            match(allowed[identifier], bytes_, captures, fresh)
    if exact and len(found) != len(wanted):
        raise Mismatch(f"byte {start}: {len(found)} properties, expected {len(wanted)}")
    return at


def show(data, limit=400):
    """Bytes for people: hex, and what can be read."""
    text = data[:limit].hex(" ")
    return text + (f" … ({len(data)} bytes)" if len(data) > limit else "")


def readable(data):
    return "".join(chr(byte) if 32 <= byte < 127 else "." for byte in data)

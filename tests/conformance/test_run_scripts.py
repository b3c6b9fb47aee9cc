"""The format of the scripts and their player, against a server that says what the test tells it to."""

import socket
import threading

import pytest

import run_scripts
import script

CONNECT = bytes.fromhex("10 0d 00 04 4d 51 54 54 04 02 00 3c 00 01 61")


def tokens(text):
    return script.tokens(text)


def parse(text):
    return script.parse("v5/a.mqtt", text)


@pytest.mark.parametrize("text, data", [
    ("10 ff", "10 ff"),
    ('00 02 "ab"', "00 02 61 62"),
    ('"ä"', "c3 a4"),
    ('"a-@@@@"', "61 2d 77 78 79 7a"),
    ("61*3", "61 61 61"),
    ('"ab"*2', "61 62 61 62"),
    ("30 {len} 61*200", "30 c8 01" + " 61" * 200),
    ("f0 {len} 18 {len} 01 02", "f0 04 18 02 01 02"),
    ("40 02 <id>", "40 02 12 34"),
])
def test_what_is_sent(text, data):
    assert script.assemble(tokens(text), {"id": b"\x12\x34"}, "wxyz") == bytes.fromhex(data)


@pytest.mark.parametrize("text", ["..", "{props}", "{success}", "81|82", "<other>", "<id:2>"])
def test_what_cannot_be_sent(text):
    with pytest.raises(ValueError):
        script.assemble(tokens(text), {"id": b"\x12\x34"}, "wxyz")


@pytest.mark.parametrize("pattern, data", [
    ("20 02 00 00", "20 02 00 00"),
    ("20 02 .. 00|01", "20 02 77 01"),
    ('30 {len} 00 03 "t/a"', "30 05 00 03 74 2f 61"),
    ('"@@@@"', "77 78 79 7a"),
    ("20 {len} 00 00 {props}", "20 03 00 00 00"),
    ("20 {len} 00 00 {props}", "20 0b 00 00 08 21 00 0a 27 00 00 01 00"),
    ("20 {len} 00 00 {props: 21 00 0a}", "20 0b 00 00 08 27 00 00 01 00 21 00 0a"),
    ("20 {len} 00 00 {props: 12 <x:str>, !21}", "20 07 00 00 04 12 00 01 61"),
    ("20 {len} 00 00 {props= 01 01, 24 00}", "20 07 00 00 04 24 00 01 01"),
    ("20 {len} 00 00 {props: ?23 00 01}", "20 06 00 00 03 23 00 01"),
    ("20 {len} 00 00 {props: ?23 00 01}", "20 03 00 00 00"),
    ("e0 {len} 82 {props}", "e0 01 82"),
    ("e0 {len} 82 {props}", "e0 02 82 00"),
    ("e0 {len} 82 {props}", "e0 06 82 04 1f 00 01 61"),
    ("40 {len} 00 01 {success}", "40 02 00 01"),
    ("40 {len} 00 01 {success}", "40 03 00 01 00"),
    ("40 {len} 00 01 {success}", "40 04 00 01 10 00"),
    ("30 {len} {rest}", "30 02 01 02"),
    ("30 {len} {rest} {max 4}", "30 02 01 02"),
    ('30 {len} {props= 26 00 01 "b" 00 00, 26 00 01 "a" 00 00}', "30 0d 0c 26 00 01 62 00 00 26 00 01 61 00 00"),
    ('30 {len} {props: 26 00 01 "a" 00 00}', "30 0d 0c 26 00 01 62 00 00 26 00 01 61 00 00"),
])
def test_what_matches(pattern, data):
    script.match(tokens(pattern), bytes.fromhex(data), {}, "wxyz")


@pytest.mark.parametrize("pattern, data, words", [
    ("20 02 00 00", "20 02 00 01", "byte 3: expected 00, received 01"),
    ("20 02 00 00", "20 02 00", "received the end"),
    ("20 02 00", "20 02 00 00", "1 bytes more than expected"),
    ("20 02 00 01|02", "20 02 00 03", "expected one of 01 02, received 03"),
    ("20 {len} 00", "20 02 00", "the length says 2, 1 bytes follow"),
    ("20 {len} {props}", "20 03 05 21 00", "run past the end"),
    ("20 {len} {props}", "20 03 02 7f 00", "no property has the identifier 7f"),
    ("20 {len} {props}", "20 05 04 01 00 01 00", "stands twice"),
    ("20 {len} {props}", "20 03 02 21 00", "runs past the properties"),
    ("20 {len} {props}", "20 03 80 00 00", "more bytes than it needs"),
    ("20 {len} {props: 21 00 0a}", "20 04 03 21 00 0b", "a required property is missing"),
    ("20 {len} {props: !21}", "20 04 03 21 00 0b", "should not be there"),
    ("20 {len} {props= 21 00 0b}", "20 06 05 21 00 0b 24 00", "2 properties, expected 1"),
    ("20 {len} {props: ?21 00 0a}", "20 04 03 21 00 0b", "byte 2: expected 0a, received 0b"),
    ("40 {len} 00 01 {success}", "40 03 00 01 80", "expected a reason below 80"),
    ("30 {len} {rest} {max 3}", "30 02 01 02", "4 bytes, more than 3"),
    ("40 02 <id:2>", "40 02 00", "ends within <id>"),
    ("40 02 <id>", "40 02 00 01", "nothing was captured as <id>"),
    ('30 {len} {props= 26 00 00 00 01 "b", 26 00 00 00 00}', "30 0c 0b 26 00 00 00 00 26 00 00 00 01 62", "in order"),
])
def test_what_does_not_match(pattern, data, words):
    with pytest.raises(script.Mismatch) as caught:
        script.match(tokens(pattern), bytes.fromhex(data), {}, "wxyz")
    assert words in str(caught.value)


def test_captures_are_kept_and_compared():
    captures = {}
    script.match(tokens("32 02 <id:2>"), bytes.fromhex("32 02 12 34"), captures, "")
    assert captures == {"id": b"\x12\x34"}
    script.match(tokens("40 02 <id>"), bytes.fromhex("40 02 12 34"), captures, "")
    with pytest.raises(script.Mismatch):
        script.match(tokens("40 02 <id>"), bytes.fromhex("40 02 12 35"), captures, "")


def test_a_file_is_read():
    first, second = parse("""
# [MQTT-3.1.0-1] before the first case is about the file.
case one  # [MQTT-3.1.0-2]
  # [MQTT-3.1.2-1, 3.1.2-2]
  needs this that
  c1 > 10 "#"   # with a comment
       00 # "
  c1 < 20
  c1 closed after 1s within 2.5s
  pause 0.5s
case two
  c1,c2 < 30
  c1 close
""")
    assert (first.name, first.needs, first.id) == ("one", ["this", "that"], "v5/a: one")
    assert first.cites == ["[MQTT-3.1.0-2]", "[MQTT-3.1.2-1, 3.1.2-2]"]
    assert [(step.line, step.connection, step.verb) for step in first.steps] == [
        (6, "c1", ">"), (8, "c1", "<"), (9, "c1", "closed"), (10, "", "pause"),
    ]
    assert script.assemble(first.steps[0].tokens, {}, "") == b"\x10#\x00"
    assert (first.steps[2].after, first.steps[2].within, first.steps[3].after) == (1, 2.5, 0.5)
    assert [step.connection for step in second.steps] == ["c1,c2", "c1"]


@pytest.mark.parametrize("text, words", [
    ("c1 > 10", "a.mqtt:1: there is no case yet"),
    ("case", "a case needs a name"),
    ("case a\ncase a", "a.mqtt:2: a case needs a name of its own"),
    ("case a\n 10", "no such step"),
    ("case a\n c1 says 10", "no such step"),
    ("case a\n c1 > 1", "not bytes"),
    ("case a\n c1 > 10 zz", "not bytes: zz"),
    ("case a\n c1 > 100", "not bytes"),
    ("case a\n c1 > {what}", "no such pattern: {what}"),
    ("case a\n c1 >", "a.mqtt:2: no bytes"),
    ("case a\n c1,c2 > 10", "several connections can only receive"),
    ("case a\n c1 closed soon", "a.mqtt:2"),
    ("case a\n c1 closed before 1s", "after and within"),
    ("case a\n c1 close now", "nothing may follow"),
    ("case a\n pause 3", "not a duration"),
])
def test_a_file_that_cannot_be_read_says_where(text, words):
    with pytest.raises(script.ScriptError) as caught:
        parse(text)
    assert words in str(caught.value)


def test_the_case_names_of_this_tree_are_unique():
    cases = [case for file in run_scripts.all_files() for case in script.parse(file)]
    assert len({case.id for case in cases}) == len(cases) >= 150
    assert all(case.steps for case in cases)


@pytest.fixture
def server():
    """Plays a list per connection: bytes are awaited, strings of hex are sent; then it closes, or stays at "open"."""
    listener = socket.create_server(("127.0.0.1", 0))
    kept, threads = [], []

    def serve(connections):
        for actions in connections:
            try:
                peer, _ = listener.accept()
            except OSError:
                return  # The test was over before.
            kept.append(peer)
            for action in actions:
                if isinstance(action, bytes):
                    peer.recv(len(action), socket.MSG_WAITALL)
                elif action != "open":
                    peer.sendall(bytes.fromhex(action))
            if "open" not in actions:
                peer.close()

    def start(*connections):
        threads.append(threading.Thread(target=serve, args=(connections,)))
        threads[0].start()
        return listener.getsockname()

    yield start
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    for thread in threads:
        thread.join(10)
    for peer in kept:
        peer.close()


def play(text, address, deadline=0.3):
    [case] = parse("case a\n" + text)
    run_scripts.play(case, address, deadline)


SEND = '  c1 > 10 0d 00 04 "MQTT" 04 02 00 3c 00 01 "a"\n'


@pytest.mark.parametrize("actions, steps", [
    (["20 02 00 00", "open"], "  c1 < 20 02 00 00\n"),
    (["20 02 00 00"], "  c1 < 20 02 00 00\n  c1 closed\n"),
    (["20", "02 00 00 d0 00", "open"], "  c1 < 20 02 00 00\n  c1 < d0 00\n"),
    (["d0 00 20 02 00 00", "open"], "  c1 <~ 20 02 00 00\n  c1 <~ d0 00\n"),
    ([], "  c1 <? 20 02 00 00\n  c1 closed\n"),
    (["d0 00", "open"], "  c1 <? 20 02 00 00\n  c1 < d0 00\n"),
    (["20 02 00 00", "open"], "  c1 <? 20 02 00 00\n"),
    (["open"], "  c1 close\n"),
])
def test_what_passes(server, actions, steps):
    play(SEND + steps, server([CONNECT, *actions]))


@pytest.mark.parametrize("actions, steps, words", [
    (["20 02 00 01", "open"], "  c1 < 20 02 00 00\n", ["a.mqtt:3", "expected c1 < 20 02", "received 20 02 00 01"]),
    (["20 02", "open"], "  c1 < 20 02 00 00\n", ["nothing came within", "received so far: 20 02"]),
    ([], "  c1 < 20 02 00 00\n", ["the connection was closed"]),
    (["open"], "  c1 closed\n", ["still open"]),
    (["d0 00"], "  c1 closed\n", ["received d0 00"]),
    (["20 02 00 00", "d0 00", "open"], "  c1 < 20 02 00 00\n", ["received what no step expects: d0 00"]),
    (["d0 00 d0 00", "open"], "  c1 <~ 20 02 00 00\n  c1 <~ d0 00\n", ["expected 20, received d0"]),
    ([], "  c1 closed after 1s\n", ["closed already after"]),
    (["30 80 80 80 80 01", "open"], "  c1 < 30\n", ["more than four bytes"]),
    (["open"], "  c2 < 30\n", ["c2 is not connected"]),
    (["open"], "  c1 > <id>\n", ["was not captured before"]),
])
def test_what_fails(server, actions, steps, words):
    with pytest.raises(run_scripts.Failure) as caught:
        play(SEND + steps, server([CONNECT, *actions]))
    for word in words:
        assert word in str(caught.value)


def test_one_of_two_connections_receives(server):
    steps = SEND + SEND.replace("c1", "c2") + "  c1,c2 < d0 00\n"
    play(steps, server([CONNECT, "open"], [CONNECT, "d0 00", "open"]))


def test_a_connection_is_opened_again_after_it_was_closed(server):
    steps = SEND + "  c1 closed\n" + SEND + "  c1 < d0 00\n"
    play(steps, server([CONNECT], [CONNECT, "d0 00", "open"]))


def test_the_command(server, tmp_path, capsys):
    file = tmp_path / "a.mqtt"
    good, bad = SEND + "  c1 < d0 00\n", SEND + "  c1 < d1 00\n"
    file.write_text(f"case good\n{good}case bad\n{bad}case other\n  needs x\n{SEND}")
    host, port = server([CONNECT, "d0 00", "open"], [CONNECT, "d0 00", "open"])
    assert run_scripts.main(["--address", f"{host}:{port}", "--deadline", "0.3", str(file)]) == 1
    out = capsys.readouterr().out
    assert "1 passed, 1 failed, 1 skipped" in out and f"{file}:6: bad" in out and "needs x" in out
    assert run_scripts.main(["--list", "-k", "good", str(file)]) == 0
    assert "1 cases" in capsys.readouterr().out

# ruff: noqa: E501, RUF001 - a message is written as it is shown, and a name as it was tried
"""Bad catalogs: what is changed in a good one, and every fault that must be reported for it.

Marks are LINE:COLUMN of the changed text. `test_bad_catalogs.py` runs each of them twice: alone, and
with an unrelated fault elsewhere in the same file.
"""

from dataclasses import dataclass

A, B, C = "a" * 64, "b" * 64, "c" * 64
GOOD = f"""\
plugins:
  auth:
    mock:
      pin: v2
      versions:
        v1: {{command: bin/mock-1, sha256: {A}}}
        v2: {{command: bin/mock-2, sha256: {B}}}
      ready: {{timeout: 10s}}
  secret:
    kv:
      versions:
        v1: {{command: bin/kv, sha256: {C}}}
namespaces:
  root:
    mounts:
      auth/mock: {{plugin: auth/mock}}
      kv: {{plugin: secret/kv, version: v1}}
  team-a/dev:
    mounts:
      auth/mock: {{plugin: auth/mock}}
"""
RULE = "1 to 64 of a-z A-Z 0-9 . _ -, not beginning with . or -"
DURATION = "not a duration: write 100ms, 10s, 1m30s or a number of seconds"


@dataclass(frozen=True)
class Bad:
    """`old` of the good catalog replaced with `new`; `faults` is all that is reported."""

    name: str
    old: str
    new: str
    faults: tuple[str, ...]

    @property
    def text(self) -> str:
        assert self.old in GOOD, self.name
        return GOOD.replace(self.old, self.new, 1)


READY = "      ready: {timeout: 10s}\n"

BAD = [
    Bad(
        "a pin that is a number to YAML",
        "pin: v2",
        "pin: 1.10",
        ('4:12: pin: YAML reads 1.10 as a number: quote it: "1.10"',),
    ),
    Bad(
        "a pin that is false to YAML",
        "pin: v2",
        "pin: no",
        ('4:12: pin: YAML reads no as true or false: quote it: "no"',),
    ),
    Bad(
        "a pin that is octal to YAML",
        "pin: v2",
        "pin: 0660",
        ('4:12: pin: YAML reads 0660 as a number: quote it: "0660"',),
    ),
    Bad(
        "a pin that is a time to YAML",
        "pin: v2",
        "pin: 12:30:45",
        ('4:12: pin: YAML reads 12:30:45 as a number: quote it: "12:30:45"',),
    ),
    Bad(
        "a pin that is a date to YAML",
        "pin: v2",
        "pin: 2024-01-01",
        ('4:12: pin: YAML reads 2024-01-01 as a date: quote it: "2024-01-01"',),
    ),
    Bad(
        "a pin with an underscore between digits",
        "pin: v2",
        "pin: 1_000",
        ('4:12: pin: YAML reads 1_000 as a number: quote it: "1_000"',),
    ),
    Bad(
        "a pin that is infinite",
        "pin: v2",
        "pin: .inf",
        ('4:12: pin: YAML reads .inf as a number: quote it: ".inf"',),
    ),
    Bad("a pin that is nothing", "pin: v2", "pin:", ("4:11: pin: has no value",)),
    Bad("a pin that is null", "pin: v2", "pin: ~", ("4:12: pin: has no value",)),
    Bad("a pin that is a list", "pin: v2", "pin: [v2]", ("4:12: pin: must be a string, not a list",)),
    Bad(
        "a pin that does not exist",
        "pin: v2",
        "pin: v3",
        ('4:12: auth/mock is pinned to "v3", which is not among its versions',),
    ),
    Bad(
        "a pin that is almost a version",
        "pin: v2",
        "pin: v22",
        ('4:12: auth/mock is pinned to "v22", which is not among its versions: did you mean "v2"?',),
    ),
    Bad(
        "a pin that is no name",
        "pin: v2",
        "pin: ../v2",
        ('4:12: pin: "../v2" cannot name a version: write ' + RULE,),
    ),
    Bad(
        "no pin where a mount needs one",
        "      pin: v2\n",
        "",
        (
            "15:18: auth/mock has no pin: write one there, or a version here",
            "19:18: auth/mock has no pin: write one there, or a version here",
        ),
    ),
    Bad(
        "a version whose name is a number",
        "        v1: {command: bin/kv",
        "        1.0: {command: bin/kv",
        ('12:9: YAML reads 1.0 as a number: quote it: "1.0"',),
    ),
    Bad(
        "a version whose name is no name",
        "        v1: {command: bin/mock",
        "        -v1: {command: bin/mock",
        ('6:9: "-v1" cannot name a version: write ' + RULE,),
    ),
    Bad(
        "no versions",
        "      versions:\n        v1: {command: bin/kv, sha256: " + C + "}\n",
        "      versions: {}\n",
        (
            "11:17: secret/kv has no version",
            '16:40: secret/kv has no version "v1"',
        ),
    ),
    Bad(
        "versions that are a list",
        "      versions:\n        v1: {command: bin/kv, sha256: " + C + "}\n",
        "      versions: [v1]\n",
        ("11:17: versions must be a mapping (key: value), not a list",),
    ),
    Bad(
        "a plugin that is a single value",
        "    kv:\n      versions:\n        v1: {command: bin/kv, sha256: " + C + "}\n",
        "    kv: v1\n",
        ("10:9: plugin secret/kv must be a mapping (key: value), not a single value",),
    ),
    Bad(
        "an unknown key of a plugin",
        "      pin: v2\n",
        "      pin: v2\n      vershions: {}\n",
        ('5:7: unknown key "vershions": did you mean "versions"?',),
    ),
    Bad(
        "an unknown key of a version",
        "command: bin/mock-1, ",
        "command: bin/mock-1, comand: x, ",
        ('6:35: unknown key "comand": did you mean "command"?',),
    ),
    Bad(
        "an unknown key of a mount",
        "kv: {plugin: secret/kv, version: v1}",
        "kv: {plugin: secret/kv, versoin: v1, version: v1}",
        ('17:31: unknown key "versoin": did you mean "version"?',),
    ),
    Bad(
        "an unknown key of a namespace",
        "  root:\n",
        "  root:\n    mount: {}\n",
        ('15:5: unknown key "mount": did you mean "mounts"?',),
    ),
    Bad(
        "an unknown key at the top",
        "namespaces:\n",
        "namespace: {}\nnamespaces:\n",
        ('13:1: unknown key "namespace": did you mean "namespaces"?',),
    ),
    Bad(
        "a key that belongs elsewhere",
        "      pin: v2\n",
        "      pin: v2\n      command: bin/x\n",
        ('5:7: unknown key "command": it belongs under a version',),
    ),
    Bad(
        "a key twice in block style",
        "      pin: v2\n",
        "      pin: v2\n      pin: v1\n",
        ('5:7: duplicate key "pin": first in line 4',),
    ),
    Bad(
        "a key twice in braces",
        "version: v1}",
        "version: v1, version: v1}",
        ('17:44: duplicate key "version": first in line 17',),
    ),
    Bad(
        "a mount twice under one spelling",
        "      kv: {",
        "      auth/mock: {plugin: auth/mock}\n      kv: {",
        ('17:7: duplicate key "auth/mock": first in line 16',),
    ),
    Bad(
        "a mount twice under two spellings",
        "      kv: {",
        "      /auth/mock/: {plugin: auth/mock}\n      kv: {",
        ("17:7: auth/mock/ in root is already mounted in /e/c.yaml:16",),
    ),
    Bad(
        "a mount below another",
        "      kv: {",
        "      kv/x: {plugin: secret/kv, version: v1}\n      kv: {",
        ("17:7: kv/x/ in root lies below kv/ of /e/c.yaml:18",),
    ),
    Bad(
        "a mount of an unknown plugin",
        "plugin: secret/kv,",
        "plugin: secret/vk,",
        ('17:20: unknown plugin "secret/vk": did you mean "secret/kv"?',),
    ),
    Bad(
        "a mount of a plugin without a type",
        "plugin: secret/kv,",
        "plugin: kv,",
        ('17:20: plugin: "kv" is no plugin: write TYPE/NAME, TYPE one of auth, secret, database',),
    ),
    Bad(
        "a mount of a plugin of an unknown type",
        "plugin: secret/kv,",
        "plugin: logical/kv,",
        ('17:20: plugin: "logical/kv" is no plugin: write TYPE/NAME, TYPE one of auth, secret, database',),
    ),
    Bad("a mount of no plugin", "plugin: secret/kv, ", "", ('17:11: missing key "plugin"',)),
    Bad(
        "a mount that is empty",
        "kv: {plugin: secret/kv, version: v1}",
        "kv:",
        ("17:10: mount kv must be a mapping (key: value), not nothing",),
    ),
    Bad(
        "a mount of a version that does not exist",
        "version: v1}",
        "version: v9}",
        ('17:40: secret/kv has no version "v9"',),
    ),
    Bad(
        "a mount of a version that needs quotes",
        "version: v1}",
        "version: 1.0}",
        ('17:40: version: YAML reads 1.0 as a number: quote it: "1.0"',),
    ),
    Bad(
        "an auth plugin outside auth/",
        "      auth/mock: {plugin: auth/mock}\n      kv",
        "      mock: {plugin: auth/mock}\n      kv",
        ("16:7: auth/mock is of type auth and must be mounted under auth/: write auth/mock",),
    ),
    Bad(
        "a secret plugin under auth/",
        "kv: {plugin: secret/kv, version: v1}",
        "auth/kv: {plugin: secret/kv, version: v1}",
        ("17:7: secret/kv is of type secret and cannot be mounted under auth/",),
    ),
    Bad(
        "a mount at auth itself",
        "      auth/mock: {plugin: auth/mock}\n      kv",
        "      auth: {plugin: secret/kv, version: v1}\n      kv",
        ("16:7: secret/kv is of type secret and cannot be mounted under auth/",),
    ),
    Bad(
        "a mount that goes up",
        "kv: {plugin: secret/kv, version: v1}",
        '"../kv": {plugin: secret/kv, version: v1}',
        ('17:7: "../kv" cannot be a mount: each part is ' + RULE + "; sys is reserved",),
    ),
    Bad(
        "a mount under sys/",
        "kv: {plugin: secret/kv, version: v1}",
        "sys/kv: {plugin: secret/kv, version: v1}",
        ('17:7: "sys/kv" cannot be a mount: each part is ' + RULE + "; sys is reserved",),
    ),
    Bad(
        "a mount with fullwidth letters",
        "kv: {plugin: secret/kv, version: v1}",
        "ｋｖ: {plugin: secret/kv, version: v1}",
        ('17:7: "ｋｖ" cannot be a mount: each part is ' + RULE + "; sys is reserved",),
    ),
    Bad(
        "a mount with a NUL",
        "kv: {plugin: secret/kv, version: v1}",
        '"k\\0v": {plugin: secret/kv, version: v1}',
        ('17:7: "k\\x00v" cannot be a mount: each part is ' + RULE + "; sys is reserved",),
    ),
    Bad(
        "a mount whose log file's name would be too long",
        "kv: {plugin: secret/kv, version: v1}",
        "kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk/kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk/kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk/kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk: {plugin: secret/kv, version: v1}",
        ("17:7: a mount's path has at most 200 characters",),
    ),
    Bad(
        "a namespace with a part called sys",
        "team-a/dev:",
        "team-a/sys:",
        ('18:3: "team-a/sys" cannot be a namespace: each part is ' + RULE + "; root and sys are reserved",),
    ),
    Bad(
        "a namespace with a part called root",
        "team-a/dev:",
        "root/dev:",
        ('18:3: "root/dev" cannot be a namespace: each part is ' + RULE + "; root and sys are reserved",),
    ),
    Bad(
        "a namespace with an empty part",
        "team-a/dev:",
        "team-a//dev:",
        ('18:3: "team-a//dev" cannot be a namespace: each part is ' + RULE + "; root and sys are reserved",),
    ),
    Bad(
        "a namespace twice under two spellings",
        "  team-a/dev:",
        "  /root/:\n    mounts: {}\n  team-a/dev:",
        ("18:3: namespace root is already written in line 14",),
    ),
    Bad(
        "mounts that are a list",
        "    mounts:\n      auth/mock: {plugin: auth/mock}\n      kv: {plugin: secret/kv, version: v1}\n",
        "    mounts: [kv]\n",
        ("15:13: mounts must be a mapping (key: value), not a list",),
    ),
    Bad(
        "a type of plugin that there is not",
        "  secret:\n",
        "  secrets:\n",
        ('9:3: unknown plugin type "secrets": did you mean "secret"?',),
    ),
    Bad(
        "a plugin whose name is no name",
        "    mock:\n",
        "    mo ck:\n",
        ('3:5: "mo ck" cannot name a plugin: write ' + RULE,),
    ),
    Bad(
        "a digest that is too short",
        C,
        "c0ffee",
        ('12:39: sha256: "c0ffee" is no SHA-256: write the 64 hex digits that sha256sum prints',),
    ),
    Bad(
        "a digest with other letters",
        C,
        "gggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggg",
        (
            '12:39: sha256: "ggggggggggggggggggg…" is no SHA-256: write the 64 hex digits that sha256sum prints',
        ),
    ),
    Bad(
        "a digest that is missing",
        ", sha256: " + C,
        "",
        (
            '12:13: missing key "sha256": write the SHA-256 of /e/bin/kv, or `defaults: {sha256: optional}` in plugind.yaml',
        ),
    ),
    Bad("a command that is missing", "command: bin/kv, ", "", ('12:13: missing key "command"',)),
    Bad(
        "a command that is empty",
        "command: bin/kv,",
        'command: "",',
        ('12:23: command: must be a path, not ""',),
    ),
    Bad(
        "a command that is a list",
        "command: bin/kv,",
        "command: [bin/kv, -v],",
        ("12:23: command: must be a string, not a list",),
    ),
    Bad(
        "a command with a NUL",
        "command: bin/kv,",
        'command: "bin/kv\\0",',
        ("12:23: command: must not contain NUL or a line break",),
    ),
    Bad(
        "a command with a line break",
        "command: bin/kv,",
        'command: "bin/k\\nv",',
        ("12:23: command: must not contain NUL or a line break",),
    ),
    Bad(
        "arguments that are one string",
        READY,
        "      args: --fast\n",
        ("8:13: args: must be a list, not a single value",),
    ),
    Bad(
        "an argument that is a number",
        READY,
        "      args: [--port, 8080]\n",
        ('8:22: YAML reads 8080 as a number: quote it: "8080"',),
    ),
    Bad(
        "an argument that is true to YAML",
        READY,
        "      args: [on]\n",
        ('8:14: YAML reads on as true or false: quote it: "on"',),
    ),
    Bad("an argument with a NUL", READY, '      args: ["a\\0"]\n', ("8:14: must not contain NUL",)),
    Bad(
        "an environment that is a list",
        READY,
        "      env: [A=b]\n",
        ("8:12: env must be a mapping (key: value), not a list",),
    ),
    Bad(
        "a variable that is a number",
        READY,
        "      env: {SIZE: 10}\n",
        ('8:19: YAML reads 10 as a number: quote it: "10"',),
    ),
    Bad(
        "a variable whose name is false to YAML",
        READY,
        "      env: {NO: x}\n",
        ('8:13: YAML reads NO as true or false: quote it: "NO"',),
    ),
    Bad(
        "a variable with a bad name",
        READY,
        "      env: {A-B: x}\n",
        ('8:13: "A-B" cannot name a variable: write letters, digits and _',),
    ),
    Bad(
        "a variable of plugind's",
        READY,
        "      env: {PLUGIND_MOUNT: x}\n",
        ("8:13: PLUGIND_MOUNT is set by plugind: choose a name that begins otherwise",),
    ),
    Bad("a variable with a NUL", READY, '      env: {A: "x\\0y"}\n', ("8:16: must not contain NUL",)),
    Bad(
        "a variable from a file that is not named",
        READY,
        "      env: {A: {}}\n",
        ('8:16: missing key "file"',),
    ),
    Bad(
        "a variable from a file under another key",
        READY,
        "      env: {A: {flie: x}}\n",
        (
            '8:16: missing key "file"',
            '8:17: unknown key "flie": did you mean "file"?',
        ),
    ),
    Bad(
        "multiplexing declared for a handshake",
        READY,
        '      env: {PLUGIN_MULTIPLEX_GRPC: "1"}\n      ready: {kind: handshake}\n',
        ("8:13: PLUGIN_MULTIPLEX_GRPC does not go with ready kind handshake: remove it",),
    ),
    Bad(
        "a user that is a list", READY, "      user: [root]\n", ("8:13: user: must be a string, not a list",)
    ),
    Bad(
        "a user with a colon",
        READY,
        '      user: "a:b"\n',
        ('8:13: user: "a:b" cannot be the name of a user or group',),
    ),
    Bad(
        "a cwd that is a number",
        READY,
        "      cwd: 7\n",
        ('8:12: cwd: YAML reads 7 as a number: quote it: "7"',),
    ),
    Bad(
        "a duration without a unit it knows",
        READY,
        "      ready: {timeout: 10x}\n",
        ('8:24: timeout: "10x" is ' + DURATION,),
    ),
    Bad(
        "a duration that is negative",
        READY,
        "      ready: {timeout: -1s}\n",
        ('8:24: timeout: "-1s" is ' + DURATION,),
    ),
    Bad(
        "a duration that is sexagesimal",
        READY,
        "      ready: {timeout: 1:30}\n",
        ('8:24: timeout: "1:30" is ' + DURATION,),
    ),
    Bad(
        "a timeout of nothing",
        READY,
        "      ready: {timeout: 0s}\n",
        ("8:24: timeout: must be longer than 0s",),
    ),
    Bad(
        "a ready kind that there is not",
        READY,
        "      ready: {kind: htp}\n",
        (
            '8:21: kind: "htp" is none of exec, notify, handshake, http, tcp, unix, command: did you mean "http"?',
        ),
    ),
    Bad(
        "a ready key of another kind",
        READY,
        '      ready: {kind: tcp, url: http://127.0.0.1:1/, address: "127.0.0.1:1"}\n',
        ('8:26: ready of kind tcp has no key "url"',),
    ),
    Bad(
        "a ready key that the outer kind has not",
        READY,
        "      ready: {url: http://127.0.0.1:1/}\n",
        ('8:15: ready of kind exec has no key "url"',),
    ),
    Bad(
        "a ready kind without its address",
        READY,
        "      ready: {kind: tcp}\n",
        ('8:15: ready of kind tcp needs the key "address"',),
    ),
    Bad(
        "an address without a port",
        READY,
        "      ready: {kind: tcp, address: localhost}\n",
        ('8:35: address: "localhost" is no address: write HOST:PORT, e.g. 127.0.0.1:8080 or "[::1]:8080"',),
    ),
    Bad(
        "an address with port 0",
        READY,
        '      ready: {kind: tcp, address: "localhost:0"}\n',
        ('8:35: address: "localhost:0" is no address: write HOST:PORT, e.g. 127.0.0.1:8080 or "[::1]:8080"',),
    ),
    Bad(
        "a URL of another scheme",
        READY,
        "      ready: {kind: http, url: ftp://x/}\n",
        ('8:32: url: "ftp://x/" is no URL: write http://127.0.0.1:8080/health or unix:/run/x.sock:/health',),
    ),
    Bad(
        "a probe command that is empty",
        READY,
        "      ready: {kind: command, command: []}\n",
        ("8:39: command: must name an executable",),
    ),
    Bad(
        "liveness without a kind",
        READY,
        "      liveness: {interval: 5s}\n",
        ('8:18: liveness needs the key "kind"',),
    ),
    Bad(
        "liveness that would check nothing",
        READY,
        "      liveness: {kind: exec}\n",
        ("8:18: liveness of kind exec would check nothing: an exit is seen anyway",),
    ),
    Bad(
        "liveness with no failures",
        READY,
        '      liveness: {kind: tcp, address: "localhost:1", failures: 0}\n',
        ('8:63: failures: "0" is not a whole number from 1 to 1000000',),
    ),
    Bad(
        "a signal that there is not",
        READY,
        "      stop: {signal: SIGTREM}\n",
        ('8:22: signal: "SIGTREM" is no signal: did you mean "TERM"?',),
    ),
    Bad(
        "a signal number that there is not",
        READY,
        "      stop: {signal: 99}\n",
        ('8:22: signal: "99" is no signal',),
    ),
    Bad(
        "a stop that is nothing",
        READY,
        "      stop:\n",
        ("8:12: stop must be a mapping (key: value), not nothing",),
    ),
    Bad(
        "a restart policy that there is not",
        READY,
        "      restart: {policy: sometimes}\n",
        ('8:25: policy: "sometimes" is none of always, on-failure, never',),
    ),
    Bad(
        "a burst below one",
        READY,
        "      restart: {burst: -1}\n",
        ('8:24: burst: "-1" is not a whole number from 1 to 1000000',),
    ),
    Bad(
        "a burst that is a fraction",
        READY,
        "      restart: {burst: 1.5}\n",
        ('8:24: burst: "1.5" is not a whole number from 1 to 1000000',),
    ),
    Bad(
        "a rollback that is yes",
        READY,
        "      reload: {rollback: yes}\n",
        ('8:26: rollback: "yes" is neither true nor false',),
    ),
    Bad(
        "a rollback that is quoted",
        READY,
        '      reload: {rollback: "true"}\n',
        ('8:26: rollback: "true" is neither true nor false',),
    ),
    Bad(
        "an order that there is not",
        READY,
        "      reload: {order: start-first}\n",
        ('8:23: order: "start-first" is none of stop_first, start_first: did you mean "start_first"?',),
    ),
    Bad(
        "a size with a unit it does not know",
        READY,
        "      limits: {memory: 1GB}\n",
        ('8:24: memory: "1GB" is not a size: write 64KiB, 16MiB, 1GiB or a number of bytes',),
    ),
    Bad(
        "a limit that is negative",
        READY,
        "      limits: {nofile: -1}\n",
        ('8:24: nofile: "-1" is not a whole number from 3 to 9223372036854775807',),
    ),
    Bad(
        "a limit of no processor",
        READY,
        "      limits: {cpu: 0}\n",
        ('8:21: cpu: "0" is not a number above 0',),
    ),
    Bad(
        "a nice that there is not",
        READY,
        "      limits: {nice: -21}\n",
        ('8:22: nice: "-21" is not a whole number from -20 to 19',),
    ),
    Bad(
        "an oom_score_adj that is none",
        READY,
        "      limits: {oom_score_adj: --5}\n",
        ('8:31: oom_score_adj: "--5" is not a whole number from -1000 to 1000',),
    ),
    Bad(
        "a umask that YAML reads as a number",
        READY,
        "      umask: 022\n",
        ('8:14: umask: YAML reads 022 as a number: quote it: "022"',),
    ),
    Bad(
        "a group that cannot be one",
        READY,
        "      groups: [audio, a:b]\n",
        ('8:23: "a:b" cannot be the name of a user or group',),
    ),
    Bad(
        "a limit that there is not",
        READY,
        "      limits: {memroy: 1GiB}\n",
        ('8:16: unknown key "memroy": did you mean "memory"?',),
    ),
    Bad(
        "a listener that is a number",
        READY,
        "      listen: [7000]\n",
        ('8:16: YAML reads 7000 as a number: quote it: "7000"',),
    ),
    Bad(
        "a listener of two kinds",
        READY,
        '      listen: [{stream: "127.0.0.1:1", datagram: "127.0.0.1:1"}]\n',
        ('8:16: a listener needs one of "stream" and "datagram"',),
    ),
    Bad(
        "a listener twice",
        READY,
        '      listen: ["127.0.0.1:1", "127.0.0.1:1"]\n',
        (
            "8:31: 127.0.0.1:1 is listed twice",
            "20:7: 127.0.0.1:1 is already listened on for auth/mock/ in root",
        ),
    ),
    Bad(
        "a listener's mode that YAML reads as octal",
        READY,
        "      listen: [{stream: /run/x.sock, mode: 0660}]\n",
        (
            '8:44: mode: YAML reads 0660 as a number: quote it: "0660"',
            "20:7: /run/x.sock is already listened on for auth/mock/ in root",
        ),
    ),
    Bad(
        "an address that two mounts listen on",
        "kv: {plugin: secret/kv, version: v1}",
        'kv: {plugin: secret/kv, version: v1, listen: ["127.0.0.1:7"]}\n      kw: {plugin: secret/kv, version: v1, listen: ["127.0.0.1:7"]}',
        ("18:7: 127.0.0.1:7 is already listened on for kv/ in root",),
    ),
    Bad(
        "an address that covers another mount's",
        "kv: {plugin: secret/kv, version: v1}",
        'kv: {plugin: secret/kv, version: v1, listen: ["0.0.0.0:7"]}\n      kw: {plugin: secret/kv, version: v1, listen: ["10.0.0.1:7"]}',
        ("18:7: 10.0.0.1:7 is already listened on for kv/ in root, as 0.0.0.0:7",),
    ),
    Bad(
        "two listeners that exclude each other",
        "kv: {plugin: secret/kv, version: v1}",
        'kv: {plugin: secret/kv, version: v1, listen: ["7", "[::1]:7"]}',
        ("17:58: [::1]:7 and [::]:7 exclude each other",),
    ),
    Bad(
        "a probe that plugind itself would answer",
        "kv: {plugin: secret/kv, version: v1}",
        'kv: {plugin: secret/kv, version: v1, listen: ["7"], ready: {kind: tcp, address: "localhost:7"}}',
        (
            (
                "17:7: ready of kind tcp says nothing at localhost:7: plugind holds that socket, and a "
                "connection succeeds before the plugin runs"
            ),
        ),
    ),
    Bad(
        "a listener at a host's name",
        "kv: {plugin: secret/kv, version: v1}",
        'kv: {plugin: secret/kv, version: v1, listen: ["localhost:7"]}',
        (
            (
                '17:53: "localhost:7" cannot be listened on: it is no address: write "127.0.0.1:7000", '
                '"[::1]:7000", "7000" (of all addresses), "/run/x.sock" or "@name"'
            ),
        ),
    ),
    Bad("an alias", "pin: v2", "pin: *x", ("4:12: aliases are not allowed: write out what *x means",)),
    Bad("an anchor", "pin: v2", "pin: &x v2", ("4:12: anchors are not allowed: remove &x",)),
    Bad("a tag", "pin: v2", "pin: !!str v2", ("4:12: tags are not allowed: remove tag:yaml.org,2002:str",)),
    Bad(
        "an object of Python",
        "pin: v2",
        "pin: !!python/object:os.system v2",
        ("4:12: tags are not allowed: remove tag:yaml.org,2002:python/object:os.system",),
    ),
    Bad(
        "a merge key",
        "      pin: v2\n",
        "      pin: v2\n      <<: {cwd: /}\n",
        ("5:7: merge keys are not allowed: write out what << would merge",),
    ),
    Bad(
        "a key that is a list",
        "      pin: v2\n",
        "      pin: v2\n      ? [a]\n      : b\n",
        ("5:9: a key must be a single value",),
    ),
    Bad(
        "plugins that are a list",
        GOOD,
        "plugins: []\nnamespaces: {}\n",
        ("1:10: plugins must be a mapping (key: value), not a list",),
    ),
    Bad(
        "namespaces that are nothing",
        GOOD,
        "plugins: {}\nnamespaces:\n",
        ("2:12: namespaces must be a mapping (key: value), not nothing",),
    ),
]
"""The tree is whole: an unrelated fault anywhere in the file is found too."""

ENDING = [
    Bad(
        "a second document",
        "namespaces:\n",
        "---\nnamespaces:\n",
        ("13:1: a second document is not allowed: one file, one document",),
    ),
    Bad(
        "a list that does not end",
        "pin: v2",
        "pin: [v2",
        ("5:15: not YAML: while parsing a flow sequence: did not find expected ',' or ']'",),
    ),
    Bad(
        "a tab that indents",
        "      pin: v2",
        "\tpin: v2",
        (
            "4:1: not YAML: while scanning for the next token: found character that cannot start any token (indent with spaces, not with tabs)",
        ),
    ),
    Bad(
        "two values for one key",
        "pin: v2",
        "pin: v2: v3",
        ("4:14: not YAML: mapping values are not allowed in this context",),
    ),
    Bad(
        "a quote that does not end",
        "pin: v2",
        "pin: 'v2",
        ("21:1: not YAML: while scanning a quoted scalar: found unexpected end of stream",),
    ),
    Bad(
        "an undefined directive in the middle",
        "namespaces:\n",
        "%x\nnamespaces:\n",
        ("13:3: not YAML: while scanning a directive: found unknown directive name",),
    ),
    Bad(
        "thirty-three levels",
        "pin: v2",
        "pin: [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
        ("4:40: nested more than 32 levels deep",),
    ),
    Bad(
        "a character that cannot begin a value",
        "pin: v2",
        "pin: @v2",
        ("4:12: not YAML: while scanning for the next token: found character that cannot start any token",),
    ),
]
"""Reading ends at the fault; what stands before it is found too."""

WHOLE = [
    Bad("a NUL", "pin: v2", "pin: v\x002", ("4:13: character U+0000 is not allowed here: remove it",)),
    Bad("a NEL", "pin: v2", "pin: v\x852", ("4:13: character U+0085 is not allowed here: remove it",)),
    Bad(
        "nothing but a comment",
        GOOD,
        "# plugins\n",
        ('is empty: a catalog without plugins is "plugins: {}"',),
    ),
    Bad("nothing", GOOD, "", ('is empty: a catalog without plugins is "plugins: {}"',)),
    Bad(
        "a single value",
        GOOD,
        "plugins\n",
        ("1:1: a catalog must be a mapping (key: value), not a single value",),
    ),
    Bad("a list", GOOD, "- plugins\n", ("1:1: a catalog must be a mapping (key: value), not a list",)),
]
"""The file as a whole is no catalog."""

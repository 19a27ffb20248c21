"""Golden output of chat templates, from the real jinja2 environment of transformers.

Made with transformers 5.23, jinja2 3.1.6, trl 1.16.0:
    .deps/venv/bin/python tests/golden/templates/make_goldens.py
Writes conversations.json, rendered.json and features.json next to this file.
"""

import datetime
import json
import pathlib

import transformers.utils.chat_template_utils as reference
import trl
from features import CONTEXT, cases
from conversations import CONVERSATIONS, NOW, TOKENS

HERE = pathlib.Path(__file__).parent
REPOSITORY = HERE.parents[2]


class FixedClock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(NOW, datetime.timezone.utc).replace(tzinfo=None)


def fnv1a(data: bytes) -> str:
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return f"{value:016x}"


def render(source, variables):
    """(text, spans in bytes), or None when the reference raises."""
    variables = dict(variables)
    messages = reference._alias_reasoning_fields(variables.pop("messages", []))
    try:
        template = reference._compile_jinja_template(source)
        text, spans = reference._render_with_assistant_indices(
            template,
            messages,
            variables.pop("tools", None),
            variables.pop("documents", None),
            variables.pop("add_generation_prompt", False),
            **TOKENS,
            **variables,
        )
    except Exception:
        return None
    return text, [[len(text[:b].encode()), len(text[:e].encode())] for b, e in spans]


def templates():
    folder = pathlib.Path(trl.__file__).parent / "chat_templates"
    for path in sorted(folder.glob("*.jinja")):
        ours = [
            p
            for p in (
                REPOSITORY / "engine/text/templates" / path.name,
                HERE / "trl" / path.name,
            )
            if p.exists()
        ]
        assert len(ours) == 1 and ours[0].read_bytes() == path.read_bytes(), path.name
        yield path.stem, path.read_text(encoding="utf-8")
    for name in ("smollm2", "smollm2_training"):
        path = REPOSITORY / "engine/text/templates" / f"{name}.jinja"
        yield name, path.read_text(encoding="utf-8")


def main():
    reference.datetime = FixedClock
    rendered = {}
    for name, source in templates():
        rendered[name] = {}
        for conversation in CONVERSATIONS:
            variables = {k: v for k, v in conversation.items() if k not in ("name", "extra")}
            result = render(source, variables | conversation.get("extra", {}))
            if result is not None:
                text = result[0].encode()
                result = [fnv1a(text), len(text), result[1]]
            rendered[name][conversation["name"]] = result
    features = [CONTEXT]
    for template in cases():
        result = render(template, CONTEXT)
        features.append([template, result and result[0], result and result[1]])
    write("conversations.json", {"now": NOW, "tokens": TOKENS, "conversations": CONVERSATIONS})
    write("rendered.json", rendered)
    write("features.json", features)
    total = sum(len(r) for r in rendered.values())
    errors = sum(v is None for r in rendered.values() for v in r.values())
    print(f"{len(rendered)} templates, {total} renderings, {errors} of them errors")
    print(f"{len(features) - 1} features, {sum(f[1] is None for f in features[1:])} of them errors")


def write(name, data):
    lines = data.items() if isinstance(data, dict) else enumerate(data)
    body = ",\n".join(
        (json.dumps(k) + ": " if isinstance(data, dict) else "")
        + json.dumps(v, ensure_ascii=False, separators=(",", ":"))
        for k, v in lines
    )
    brackets = "{}" if isinstance(data, dict) else "[]"
    (HERE / name).write_text(f"{brackets[0]}\n{body}\n{brackets[1]}\n", encoding="utf-8")


if __name__ == "__main__":
    main()

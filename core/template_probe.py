"""Child process: render an unknown chat template once, in a sandbox, with little memory and time.

``python -m core.template_probe < template``: exit code 0 if a short chat renders.
"""

from __future__ import annotations

import datetime
import json
import sys
from typing import Any

from jinja2 import TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

MEMORY_BYTES = 2**30
CPU_SECONDS = 5
LARGEST_OUTPUT = 64 * 1024
CHAT = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]


class Generation(Extension):
    """``{% generation %}`` marks assistant text for training masks; here it only shows its body."""

    tags = {"generation"}  # noqa: RUF012  (jinja's own interface)

    def parse(self, parser: Parser) -> list[Node]:
        """Return the body between the tags."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def limit_resources() -> None:
    """Cap address space and processor time where the system can (not on Windows)."""
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))


def environment() -> ImmutableSandboxedEnvironment:
    """Return the sandbox, with the functions that chat templates may rely on."""

    def refuse(message: str) -> str:
        raise TemplateError(message)

    def to_json(value: Any, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=False, **options)

    sandbox = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    sandbox.filters["tojson"] = to_json
    sandbox.globals["raise_exception"] = refuse
    sandbox.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    return sandbox


def main() -> int:
    """Render the template on standard input; say on standard error why it is refused."""
    source = sys.stdin.buffer.read().decode("utf-8", "replace")
    limit_resources()
    try:
        template = environment().from_string(source)
        for turns, prompt in ((CHAT[:1], True), (CHAT, False)):
            values = {"bos_token": "<s>", "eos_token": "</s>", "tools": None, "documents": None}
            text = template.render(messages=turns, add_generation_prompt=prompt, **values)
            if len(text) > LARGEST_OUTPUT:
                raise TemplateError("it writes too much")
    except (TemplateError, MemoryError, RecursionError, ArithmeticError) as error:
        sys.stderr.write(f"{type(error).__name__}: {str(error)[:160]}")
        return 1
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        sys.stderr.write(f"it fails ({type(error).__name__})")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

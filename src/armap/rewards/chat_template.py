"""A chat template, by which other servers read a conversation as a reward model was trained to read it.

vLLM and transformers write messages out as the template says that is saved with a tokenizer, and a backbone's own
writes another text than the one the head was trained on. The one made here says of the messages that
`armap.rewards.conversation` makes of a trajectory what `armap.rewards.rendering` says of the whole trajectory.
"""

from __future__ import annotations

import json
from typing import Any

from armap.rewards.rendering import CLOSING_QUESTION, SAID_ABOVE

# What the agent says is an action whose form may be left out, and where nothing is seen between two actions stands an
# empty line. `due` is whether something has to be seen next.
_TEMPLATE = """\
{{- before + 'Task: ' }}
{%- set now = namespace(task='', due=true) %}
{%- for message in messages %}
{%- set text = message.content %}
{%- if text is not string %}
{%- set text = text | selectattr('type', 'equalto', 'text') | map(attribute='text') | join('\\n') %}
{%- endif %}
{%- if message.role == 'assistant' %}
{%- set formed = text.startswith('Action: ') or (text.startswith('Thought: ') and '\\nAction: ' in text) %}
{{- ('\\n\\n' if now.due else '\\n') + ('' if formed else 'Action: ') + text }}
{%- set now.due = true %}
{%- elif loop.first %}
{{- text }}
{%- set now.task = text %}
{%- else %}
{%- set again = now.task | length > said_above | length %}
{{- '\\n' + (text.replace(now.task, said_above) if again else text) }}
{%- set now.due = false %}
{%- endif %}
{%- endfor %}
{{- ('\\n\\n' if now.due else '\\n') + after }}"""


def chat_template(tokenizer: Any) -> str | None:  # noqa: ANN401 - transformers is untyped here
    """Return the template that makes of the messages of a trajectory the very tokens that a reward model reads of it.

    It writes what the tokenizer puts around every text too, as chat templates do. Words of a message that look like
    control tokens are such for whoever uses the template, while they are text like any other here.

    Args:
        tokenizer: a transformers tokenizer.

    Returns:
        The template, in Jinja; None if the tokenizer reads what it puts around a text otherwise where it is written.
    """
    read = tokenizer(CLOSING_QUESTION, return_special_tokens_mask=True)
    of_text = [place for place, special in enumerate(read.special_tokens_mask) if not special]
    tokens = tokenizer.convert_ids_to_tokens(read.input_ids)
    before, after = "".join(tokens[: of_text[0]]), "".join(tokens[of_text[-1] + 1 :])
    # Some tokenizers put a space before a text, but not behind a control token. It comes first, as it is none too many
    # for those that always put one, some of which forget that when they are saved.
    for space in (" ", "") if before else ("",):
        written = f"{before}{space}{CLOSING_QUESTION}{after}"
        if tokenizer(written, add_special_tokens=False).input_ids == read.input_ids:
            known = {"before": before + space, "after": CLOSING_QUESTION + after, "said_above": SAID_ABOVE}
            return (
                "".join(f"{{%- set {name} = {json.dumps(known[name], ensure_ascii=False)} %}}\n" for name in known)
                + _TEMPLATE
            )
    return None

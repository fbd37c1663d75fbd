"""The chat templates that have names.

All of them mark what the assistant writes with ``{% generation %}``, end of turn included. The control tokens of
ChatML and Llama 3 must be in the vocabulary; Alpaca and plain need only an end token.

Sources: ChatML as OpenAI published it in 2023 (github.com/openai/openai-python, chatml.md), Llama 3 (the model card's
prompt format), Alpaca (Taori et al. 2023, github.com/tatsu-lab/stanford_alpaca).
"""

from __future__ import annotations

_CHATML = """\
{%- for message in messages %}
{%- if message['role'] == 'assistant' %}
{{- '<|im_start|>assistant\\n' }}
{%- generation %}{{- message['content'] + '<|im_end|>' }}{%- endgeneration %}
{{- '\\n' }}
{%- else %}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""

_LLAMA3 = """\
{{- '<|begin_of_text|>' }}
{%- for message in messages %}
{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
{%- if message['role'] == 'assistant' %}
{%- generation %}{{- message['content'] | trim + '<|eot_id|>' }}{%- endgeneration %}
{%- else %}
{{- message['content'] | trim + '<|eot_id|>' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}
"""

# A system message takes the place of the sentence that Alpaca begins with.
_ALPACA = """\
{%- if messages[0]['role'] == 'system' %}
{{- messages[0]['content'] + '\\n\\n' }}
{%- else %}
{{- 'Below is an instruction that describes a task. Write a response that appropriately completes the request.\\n\\n' }}
{%- endif %}
{%- for message in messages %}
{%- if message['role'] == 'user' %}
{{- '### Instruction:\\n' + message['content'] + '\\n\\n' }}
{%- elif message['role'] == 'assistant' %}
{{- '### Response:\\n' }}
{%- generation %}{{- message['content'] + eos_token }}{%- endgeneration %}
{{- '\\n\\n' }}
{%- elif not loop.first %}
{{- raise_exception('a system message must come first') }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '### Response:\\n' }}{%- endif %}
"""

_PLAIN = """\
{%- for message in messages %}
{%- if message['role'] == 'assistant' %}
{{- 'Assistant:\\n' }}
{%- generation %}{{- message['content'] + eos_token }}{%- endgeneration %}
{{- '\\n\\n' }}
{%- else %}
{{- message['role'] | capitalize + ':\\n' + message['content'] + '\\n\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- 'Assistant:\\n' }}{%- endif %}
"""

TEMPLATES: dict[str, str] = {"chatml": _CHATML, "llama3": _LLAMA3, "alpaca": _ALPACA, "plain": _PLAIN}

TOKENS_OF: dict[str, tuple[str, ...]] = {
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "llama3": ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
}

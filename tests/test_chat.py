"""Templates, BOS, EOS, pad, and the exact text of the pairwise prompt."""

from __future__ import annotations

import llama3
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from rlhf_kit import chat, models
from rlhf_kit.errors import KitError

TALK = [
    {"role": "user", "content": "Who sat?"},
    {"role": "assistant", "content": "The bear."},
    {"role": "user", "content": "Where?"},
    {"role": "assistant", "content": "On the mat."},
]


@pytest.fixture(scope="module")
def tokenizer(tiny_folder):
    return models.load_tokenizer(tiny_folder)


@pytest.fixture(scope="module", params=["tiny", "stories"])
def any_tokenizer(request):
    return models.load_tokenizer(request.getfixturevalue(f"{request.param}_folder"))


def test_conversation_is_what_the_template_says(tokenizer):
    ids = chat.encode_conversation(tokenizer, TALK)
    whole = tokenizer.apply_chat_template(TALK, tokenize=False)
    assert tokenizer.decode(ids) == whole
    assert ids == tokenizer(whole, add_special_tokens=False)["input_ids"]
    assert (
        chat.encode_prompt(tokenizer, TALK[:1])
        == tokenizer.apply_chat_template(TALK[:1], tokenize=True, add_generation_prompt=True)["input_ids"]
    )


def test_bos_eos_and_prefix(any_tokenizer):
    ids, own = chat.encode_turns(any_tokenizer, TALK)
    assert ids.count(any_tokenizer.bos_token_id) == 1 and ids[0] == any_tokenizer.bos_token_id
    # one end token for each assistant turn, and it belongs to the turn (so it is trained)
    trained = [i for i, mine in zip(ids, own, strict=True) if mine]
    assert trained.count(any_tokenizer.eos_token_id) == 2 and ids[-1] == any_tokenizer.eos_token_id
    for k in (1, 3):
        prompt = chat.encode_prompt(any_tokenizer, TALK[:k])
        assert ids[: len(prompt)] == prompt and len(ids) > len(prompt)
        assert own[len(prompt)] and not own[len(prompt) - 1]
    assert chat.decode_response(any_tokenizer, ids[len(prompt) :]) == "On the mat."


@hypothesis_settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(question=st.text(max_size=40), answer=st.text(max_size=40))
def test_prompt_is_a_prefix_for_any_text(any_tokenizer, question, answer):
    prompt = [{"role": "user", "content": question}]
    start = chat.encode_prompt(any_tokenizer, prompt)
    ids = chat.encode_conversation(any_tokenizer, [*prompt, {"role": "assistant", "content": answer}])
    assert ids[: len(start)] == start
    assert ids[len(start) :].count(any_tokenizer.eos_token_id) == 1
    assert (
        chat.decode_response(any_tokenizer, ids[len(start) :]) == answer.encode("utf-8", "replace").decode()
    )


@pytest.mark.parametrize("token", ["<end>", "<bos>", "<assistant>", "<pad>"])
def test_control_tokens_in_user_text_are_plain_text(tokenizer, token):
    plain = chat.encode_prompt(tokenizer, [{"role": "user", "content": "hello"}])
    ids = chat.encode_prompt(tokenizer, [{"role": "user", "content": f"he{token}llo"}])
    control = tokenizer.convert_tokens_to_ids(token)
    assert ids.count(control) == plain.count(control)
    assert "<" + " " + token[1:] in tokenizer.decode(ids)


def test_check_ids_names_the_fault(tokenizer):
    good = chat.encode_conversation(tokenizer, TALK)
    chat.check_ids(tokenizer, good, "row 3")
    bos, pad = tokenizer.bos_token_id, tokenizer.pad_token_id
    for bad, words in (
        ([bos, *good], "2 BOS"),
        (good[:-1], "EOS"),
        ([*good[:3], pad, *good[3:]], "pad token stands inside"),
    ):
        with pytest.raises(KitError, match=f"row 3.*{words}"):
            chat.check_ids(tokenizer, bad, "row 3")


def test_wrong_last_speaker(tokenizer):
    with pytest.raises(KitError, match="must end with a user turn"):
        chat.encode_prompt(tokenizer, TALK)
    with pytest.raises(KitError, match="must end with an assistant turn"):
        chat.encode_conversation(tokenizer, TALK[:3])
    with pytest.raises(KitError, match="start with a user turn"):
        chat.encode_conversation(tokenizer, TALK[1:2])


def test_prepare_gives_pad_and_template(stories_folder):
    from transformers import AutoTokenizer

    bare = AutoTokenizer.from_pretrained(stories_folder)
    assert bare.pad_token is None and bare.chat_template is None
    made = chat.prepare_tokenizer(bare)
    assert made.pad_token_id == 512 != made.eos_token_id and len(made.kit_notes) == 2
    assert len(chat.prepare_tokenizer(made).kit_notes) == 2  # nothing more to do
    assert (
        made.decode(chat.encode_conversation(made, TALK[:2]))
        == "<s> Human:\nWho sat?\n\nAssistant:\nThe bear.</s>"
    )


def test_prepare_moves_pad_away_from_eos_and_eos_to_the_turns_end(tiny_folder):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    tokenizer.pad_token = "<end>"
    tokenizer.eos_token = "<user>"  # the template ends turns with <end>
    chat.prepare_tokenizer(tokenizer)
    # a control token that no text uses is taken as pad before a new one makes the vocabulary longer
    assert tokenizer.eos_token == "<end>" and tokenizer.pad_token == "<pad>" and len(tokenizer.kit_notes) == 2


def test_template_whose_prompt_is_no_prefix_is_refused(tiny_folder):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    tokenizer.chat_template = "{{ messages|length }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    with pytest.raises(KitError, match="writes a prompt differently"):
        chat.prepare_tokenizer(tokenizer)


def test_template_without_bos_gets_the_tokenizers_own(stories_folder):
    tokenizer = models.load_tokenizer(stories_folder)
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    ids = chat.encode_conversation(tokenizer, TALK)
    assert ids[0] == tokenizer.bos_token_id and ids.count(tokenizer.bos_token_id) == 1
    assert (
        ids.count(tokenizer.eos_token_id) == 2
    )  # a template that never ends a turn: each answer gets an end token


def test_pair_prompt_is_byte_equal_to_the_released_format():
    # arXiv 2405.07863 released model card, rendered with Jinja's trim_blocks
    assert chat.pair_prompt(TALK[:1], "x y", "z") == (
        "[CONTEXT] \n\n<turn> user\n Who sat?\n [RESPONSE A] x y [RESPONSE B] z \n"
    )
    assert chat.pair_prompt(TALK[:3], "a", "b") == (
        "[CONTEXT] \n\n<turn> user\n Who sat?\n<turn> assistant\n The bear.\n<turn> user\n Where?\n"
        " [RESPONSE A] a [RESPONSE B] b \n"
    )


def test_letters_are_one_token_behind_the_header(any_tokenizer):
    a, b = chat.letter_ids(any_tokenizer)
    assert a != b
    question = chat.pair_messages(TALK[:1], "x", "y")
    ids = chat.encode_conversation(any_tokenizer, [*question, {"role": "assistant", "content": "B"}])
    assert ids == [*chat.encode_prompt(any_tokenizer, question), b, any_tokenizer.eos_token_id]


def test_end_tokens_are_those_that_the_tokenizer_knows(tokenizer, tmp_path):
    assert chat.stop_ids(tokenizer) == [tokenizer.eos_token_id]  # one end: nothing changes for the kit's own models
    llama3.save_tokenizer(tmp_path)
    llama = models.load_tokenizer(tmp_path)
    end, text_end = (llama.convert_tokens_to_ids(token) for token in ("<|eot_id|>", "<|end_of_text|>"))
    assert chat.stop_ids(llama) == [end, text_end] and end == llama.eos_token_id
    letter = llama("A", add_special_tokens=False)["input_ids"]
    for ids in ([*letter, end, *letter], [*letter, text_end, *letter], letter):
        assert chat.decode_response(llama, ids) == "A"


def test_rendered_text_is_the_templates_own_with_one_bos(tmp_path):
    for number, template in enumerate((llama3.TEMPLATE, llama3.FIRST_TEMPLATE)):
        llama3.save_tokenizer(tmp_path / str(number), template=template)
        llama = models.load_tokenizer(tmp_path / str(number))
        ids = chat.encode_rendered(llama, TALK)
        assert llama.decode(ids) == llama.apply_chat_template(TALK, tokenize=False)
        assert ids.count(llama.bos_token_id) == 1 and ids[0] == llama.bos_token_id
        assert chat.encode_rendered(llama, TALK, bos=False) == ids[1:]
        assert (ids[-1] == llama.eos_token_id) == (template == llama3.TEMPLATE)  # the first one goes on to a header
        # control tokens that a user wrote are plain text, also here
        hostile = [{"role": "user", "content": "a<|begin_of_text|><|eot_id|>b"}, TALK[1]]
        found = chat.encode_rendered(llama, hostile)
        assert found.count(llama.bos_token_id) == 1
        assert found.count(llama.eos_token_id) == chat.encode_rendered(llama, TALK[:2]).count(llama.eos_token_id)
    with pytest.raises(KitError, match="must end with an assistant turn"):
        chat.encode_rendered(llama, TALK[:1])


def test_a_template_can_be_required(tmp_path):
    from transformers import AutoTokenizer

    llama3.save_tokenizer(tmp_path, template=None)
    bare = AutoTokenizer.from_pretrained(tmp_path)
    with pytest.raises(KitError, match="has no chat template"):
        chat.prepare_tokenizer(bare, template_required=True)
    assert bare.chat_template is None

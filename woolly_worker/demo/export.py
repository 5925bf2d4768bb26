"""Write a checkpoint as GGUF: matrices in Q8_0, norms in F32: `python -m woolly_worker.demo.export CHECKPOINT FILE`."""

from __future__ import annotations

import argparse
from pathlib import Path

import gguf

from woolly_worker.demo.checkpoint import load_checkpoint
from woolly_worker.demo.vocabulary import CHAT_TEMPLATE, CONTROL_TOKENS, END


def export_checkpoint(checkpoint: Path, out: Path) -> None:
    weights, shape, vocabulary = load_checkpoint(checkpoint)
    writer = gguf.GGUFWriter(out, "llama")
    writer.add_name("Woolly demo")
    writer.add_description(
        "A very small model that tells little stories and answers small questions in simple English."
    )
    writer.add_license("apache-2.0")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(int(shape["n_ctx"]))
    writer.add_embedding_length(int(shape["n_embd"]))
    writer.add_block_count(int(shape["n_layer"]))
    writer.add_feed_forward_length(int(shape["n_ff"]))
    writer.add_head_count(int(shape["n_head"]))
    writer.add_head_count_kv(int(shape["n_head_kv"]))
    writer.add_layer_norm_rms_eps(shape["rms_eps"])
    writer.add_rope_dimension_count(int(shape["n_embd"]) // int(shape["n_head"]))
    writer.add_rope_freq_base(shape["rope_base"])
    writer.add_vocab_size(len(vocabulary.tokens))

    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(list(vocabulary.tokens))
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_token_types([control if token in CONTROL_TOKENS else normal for token in vocabulary.tokens])
    writer.add_token_merges(list(vocabulary.merges))
    # As in GPT-2, one token separates documents: it would begin a text and it ends one. None is put in front.
    end = vocabulary.tokens.index(END)
    writer.add_bos_token_id(end)
    writer.add_eos_token_id(end)
    writer.add_eot_token_id(end)
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)

    for name, weight in weights.items():
        if weight.ndim == 1:
            writer.add_tensor(name, weight)
            continue
        q8_0 = gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(name, gguf.quants.quantize(weight, q8_0), raw_dtype=q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    export_checkpoint(options.checkpoint, options.out)


if __name__ == "__main__":
    main()

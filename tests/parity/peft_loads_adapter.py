"""An adapter saved by this engine, loaded by peft, gives the same logits.
Usage: peft_loads_adapter.py PARITY_DUMP MODEL [KIND]. Exit 77 (skipped) without peft."""

import json
import subprocess
import sys
import tempfile

try:
    import torch
    from peft import AutoPeftModelForCausalLM, LoraConfig, PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer
except ImportError as missing:
    print("skipped:", missing)
    sys.exit(77)


def main():
    dump, model, *kind = sys.argv[1:]
    with tempfile.TemporaryDirectory() as out:
        subprocess.run([dump, model, out, *kind], check=True)
        # Every key of our configuration is one that peft knows.
        ours = json.load(open(f"{out}/adapter_config.json"))
        unknown = set(ours) - set(LoraConfig().to_dict())
        assert not unknown, unknown
        wanted = load_file(f"{out}/logits.safetensors")
        if kind == ["tokens"]:  # resizes the base for the tokenizer that lies beside the adapter
            loaded = AutoPeftModelForCausalLM.from_pretrained(out, dtype=torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(out)
            assert len(tokenizer) == wanted["logits"].shape[1] == len(AutoTokenizer.from_pretrained(model)) + 2
            assert tokenizer("a<think>b</think>")["input_ids"][1] == len(tokenizer) - 2
        else:
            loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32), out)
        with torch.no_grad():
            logits = loaded(wanted["input_ids"][None].long()).logits[0]
            with loaded.disable_adapter():
                plain = loaded(wanted["input_ids"][None].long()).logits[0]
        worst = float((logits - wanted["logits"]).abs().max())
        print("largest difference", worst, "; the adapter changes", float((logits - plain).abs().max()))
        assert worst < 1e-4
        assert float((logits - plain).abs().max()) > 1e-2


if __name__ == "__main__":
    main()

//! The tokenizer against GPT-2.

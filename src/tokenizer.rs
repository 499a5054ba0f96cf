//! GPT-2 tokenizer.

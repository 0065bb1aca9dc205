"""Text and events become vectors: pure torch, numpy and numba, neither Ray nor a database.

In reading order: `item_text` (what BERT reads), `bert_settings`, `bert_forward` and `item_bert`
(text -> BERT vector), `config` (what the weights mean), `user_lstm` (the model), `train_data`,
`train_config` and `fit` with its parts `fit_batches`, `fit_loss`, `fit_start`, `fit_validation`
(how it learns), `weights` (the file), and `user_encoder`, `session`, `fold` (how it answers,
without torch).
"""

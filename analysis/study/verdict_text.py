"""The verdicts in a sentence each, without numbers."""

from __future__ import annotations

from analysis.study.verdict import NO, PARTLY, YES

#: Sentences by the number of the question and the verdict; an unsettled verdict has none.
PLAIN = {
    1: {
        YES: "Among pruners that keep equally many tokens, those that can rebuild more of the picture answer better.",
        PARTLY: "Among pruners that keep equally many tokens, those that can rebuild more of the picture tend to answer better.",
        NO: "Among pruners that keep equally many tokens, being able to rebuild more of the picture does not go with better answers.",
    },
    2: {
        YES: "Keeping what is hardest to rebuild beats keeping what looks most different, above all where a question is about "
        "several things.",
        PARTLY: "Keeping what is hardest to rebuild beats keeping what looks most different, no matter how many things a question "
        "is about.",
        NO: "Keeping what is hardest to rebuild does not beat keeping what looks most different.",
    },
    3: {
        YES: "Preferring tokens that have less to do with the question helps.",
        PARTLY: "Preferring tokens that have less to do with the question helps in one of the two spaces.",
        NO: "Preferring tokens that have less to do with the question does not help.",
    },
    4: {
        YES: "Rules that rebuild the picture better than the residual rule answer better, too.",
        PARTLY: "One rule that rebuilds the picture better than the residual rule answers better, too.",
        NO: "Rules that rebuild the picture better than the residual rule do not answer better.",
    },
    5: {
        YES: "Folding the dropped tokens into the kept ones helps every pruner.",
        PARTLY: "Folding the dropped tokens into the kept ones helps some pruners and harms none.",
        NO: "Folding the dropped tokens into the kept ones helps no pruner.",
    },
    6: {
        YES: "One pruner beats both at every budget.",
        PARTLY: "On average over models and families one pruner is nowhere below both, and above them where few tokens stay.",
        NO: "No pruner does.",
    },
}

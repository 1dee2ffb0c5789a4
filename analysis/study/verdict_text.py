"""The verdicts in a sentence each, without numbers."""

from __future__ import annotations

from analysis.study.verdict import NO, OPEN, PARTLY, YES

DEPENDS = "it depends on the model"
BY_TASK = "by task"
CONTENT, LENGTH, BOTH, NEITHER = "content", "length", "both", "neither"

#: Sentences by the number of the question and the verdict.
PLAIN = {
    1: {
        YES: "Which error predicts the answers depends on what is asked: the largest residual where questions are about things, the Frobenius "
        "error where every token matters; and lowering that one helps.",
        PARTLY: "On one of the tasks the error that was expected to predict the answers does; not on all.",
        NO: "The error that was expected to predict the answers predicts them on no task.",
        OPEN: "Whether the task decides which error predicts the answers cannot be said yet.",
    },
    2: {
        YES: "With norms made equal, keeping what is hardest to rebuild beats keeping what is farthest from the rest, on every model.",
        NO: "With norms made equal, keeping what is hardest to rebuild beats keeping what is farthest from the rest on no model.",
        DEPENDS: "With norms made equal, the residual rule beats the max–min rule on one model and loses on another.",
        OPEN: "Whether the residual rule beats the max–min rule once norms are made equal cannot be said yet.",
    },
    3: {
        YES: "Preferring tokens that have less to do with the question helps.",
        PARTLY: "Preferring tokens that have less to do with the question helps in one of the two spaces.",
        NO: "Preferring tokens that have less to do with the question does not help.",
        OPEN: "Whether preferring tokens that have less to do with the question helps cannot be said yet.",
    },
    4: {
        YES: "Rules of least error beat the residual rule in every task.",
        BY_TASK: "Rules of least error beat the residual rule in one task and not in another.",
        NO: "Rules of least error beat the residual rule in no task.",
        OPEN: "Whether rules of least error beat the residual rule cannot be said in every task yet.",
    },
    5: {
        CONTENT: "Filling the dropped positions helps by what is put in its place there, not by the number of tokens.",
        LENGTH: "Filling the dropped positions helps by the number of tokens, whatever they hold.",
        BOTH: "Filling the dropped positions helps by what is put in its place there, and by the number of tokens.",
        NEITHER: "Neither what fills the dropped positions nor their number matters.",
        OPEN: "Why filling the dropped positions helps, if it does, cannot be said yet.",
    },
    6: {
        YES: "Told the task, one pruner is nowhere below the others and above them where few tokens stay.",
        PARTLY: "Told the task, one pruner is not below the others where few tokens stay.",
        NO: "Even with the task given, the pruner made for it is below another one somewhere.",
        OPEN: "Whether one pruner is enough once it knows the task cannot be said yet.",
    },
}  # fmt: skip

"""Integrations for others: what their parts' licenses allow together, a model card, and the upload.

judge_licenses(licenses)          by part; a conservative table, no legal advice
model_card(integration, repo_id)  README.md with YAML front matter, from what the checkpoint itself says
read_evaluation(file)             error rates to put into the card
"""

from __future__ import annotations

from nuebridge.publishing.card import Measured, model_card, part_licenses, read_evaluation
from nuebridge.publishing.licenses import Judgement, judge_licenses

__all__ = ["Judgement", "Measured", "judge_licenses", "model_card", "part_licenses", "read_evaluation"]

"""What is wrong with a run, why, and what to do: symptoms are measured, findings follow from them alone."""

from sfumato.evaluation.diagnosis.finding import Finding
from sfumato.evaluation.diagnosis.rules import diagnose
from sfumato.evaluation.diagnosis.symptoms import Course, Measured, Settings, Symptoms, measure

__all__ = ["Course", "Finding", "Measured", "Settings", "Symptoms", "diagnose", "measure"]

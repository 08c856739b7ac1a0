//! The scheduler: snapshot, filters, scores, preemption and bind.

-- Makes the state that a reading script has missed: of a new tenant, or of overdue writes.
settle_overdue()
finish()
return position

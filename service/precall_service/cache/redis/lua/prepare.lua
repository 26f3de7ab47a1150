-- Prepares for a script that only reads: creates the state of a new tenant, ends overdue writes.
settle_overdue()
finish()
return position

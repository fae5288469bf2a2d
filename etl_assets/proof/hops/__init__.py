"""The hops of a verification, a file for each: functions that compare, and yield what they found, table by table."""

"""What leaves the warehouse, and for whom: reporting tables (`reports`), and the workbook that holds them.

A new report is a function in `reports`. How it is checked is in `contract`, where it can go in `publishing`.
"""

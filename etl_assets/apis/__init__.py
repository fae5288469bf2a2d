"""REST APIs as sources: how one is declared, how its pages are fetched and land, how pages become a batch of the lake.

    declaration    what a user writes: endpoint, paging, windows, rate, retry, columns, key
    client         one call, within limits; the limiter; what is worth trying again
    asking         a page: how it is asked for, and what its answer says of itself
    fetching       the pages of a window, into the lake, from the last one that landed on
    takes          how far the pages of a window are, told by the lake alone
    reading        the records of landed pages, as rows
    loading        the rows that are new, as a batch of the lake's one numbering

From the batch on the records are a table like any other: nothing above this room knows that they came from an API.
"""

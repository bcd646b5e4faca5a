"""Jobs: work of finite length on Ray Data actor pools, one file a job. The work itself is in rlloop, without Ray."""

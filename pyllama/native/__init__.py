"""Run time, close to C: find the build, load its libraries, fill the function table."""

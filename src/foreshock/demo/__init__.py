"""What `foreshock demo` trains: two small networks on real data whose losses spike by themselves."""

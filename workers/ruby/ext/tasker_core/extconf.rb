# frozen_string_literal: true

require "mkmf"

# Builds the extension where the gem is installed. With the gem rb_sys its Makefile is made, else a plain one that calls
# cargo.
begin
  require "rb_sys/mkmf"
  create_rust_makefile("tasker_core/tasker_ruby") { |rust| rust.ext_dir = "../.." }
rescue LoadError
  abort("install Rust first: cargo is not found") unless find_executable("cargo")
  package = File.expand_path("../..", __dir__)
  config = RbConfig::CONFIG
  library = "tasker_ruby.#{config["DLEXT"]}"
  File.write("Makefile", <<~MAKEFILE)
    SHELL = /bin/sh
    sitearchdir = #{config["sitearchdir"]}
    export RUBY = #{RbConfig.ruby}
    export SQLX_OFFLINE = true

    all: #{library}

    #{library}:
    \tcd '#{package}' && cargo build --locked --release --package tasker-ruby --target-dir '#{Dir.pwd}/target'
    \tcp target/release/libtasker_ruby.#{config["SOEXT"]} $@

    install: #{library}
    \tmkdir -p '$(DESTDIR)$(sitearchdir)/tasker_core'
    \tcp #{library} '$(DESTDIR)$(sitearchdir)/tasker_core/'

    clean distclean:
    \trm -rf target #{library}

    .PHONY: all install clean distclean #{library}
  MAKEFILE
end

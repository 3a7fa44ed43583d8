# frozen_string_literal: true

Gem::Specification.new do |spec|
  spec.name = "tasker-rb"
  spec.version = File.read("#{__dir__}/../../Cargo.toml")[/^version = "(.*)"$/, 1]
  spec.summary = "Tasker workers in Ruby"
  spec.description = "Handlers of workflow steps in Ruby, run by the Tasker worker, which is inside as an extension."
  spec.authors = ["Tasker"]
  spec.license = "MIT"
  spec.required_ruby_version = ">= 3.1"
  spec.metadata["rubygems_mfa_required"] = "true"
  spec.files = Dir.chdir(__dir__) { Dir["lib/**/*.rb", "exe/*", "README.md"] }
  spec.bindir = "exe"
  spec.executables = ["tasker-worker-ruby"]
  spec.require_paths = ["lib"]
  if ENV["TASKER_GEM_PLATFORM"] == "current"
    # With the extension as it was built here.
    spec.platform = Gem::Platform::CURRENT
    spec.files += Dir.chdir(__dir__) { Dir["lib/tasker_core/tasker_ruby.*"] }
  else
    # Built where it is installed, from a checkout of the whole repository.
    spec.extensions = ["ext/tasker_core/extconf.rb"]
    spec.files += ["ext/tasker_core/extconf.rb"]
  end
end

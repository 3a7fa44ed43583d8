# frozen_string_literal: true

require "logger"
require "stringio"
require "tasker_core"
require "tasker_core/rspec"
require_relative "support"

# One server for all tests, started by the first that asks; those that kill workers start their own.
module Shared
  class << self
    def folder
      @folder ||= Dir.mktmpdir("tasker-ruby-").tap { |made| File.chmod(0o755, made) }
    end

    def server
      @server ||= Server.new(folder)
    end

    def end_all
      @server&.stop
      FileUtils.rm_rf(@folder) if @folder
    end
  end
end

RSpec.configure do |config|
  config.disable_monkey_patching!
  config.warnings = true
  config.after(:suite) { Shared.end_all }
  config.include(Module.new do
    def server
      Shared.server
    end

    def folder
      Shared.folder
    end

    # A folder of the test's own.
    def scratch
      @scratch ||= Dir.mktmpdir("test-", folder)
    end

    # What is logged while the block runs.
    def logged
      before, text = TaskerCore.logger, StringIO.new
      TaskerCore.logger = Logger.new(text)
      yield
      text.string
    ensure
      TaskerCore.logger = before
    end
  end)
end

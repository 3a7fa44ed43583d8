# frozen_string_literal: true

require "json"

begin
  require_relative "tasker_ruby"
rescue LoadError => e
  raise LoadError, "the extension of tasker-rb is not built (rake compile): #{e.message}"
end

module TaskerCore
  # The boundary to the Rust worker (docs/boundary.md). What it refuses is raised as Errors::WorkerError.
  module Native
    # The version of the messages that this package speaks.
    BOUNDARY = 1

    class << self
      # The version of the extension.
      def package
        JSON.parse(version)["package"]
      end

      # Refuses an extension that speaks another version.
      def check!
        spoken = JSON.parse(version)["boundary"]
        return if spoken == BOUNDARY

        message = "the extension speaks version #{spoken} of the boundary, this package #{BOUNDARY}"
        raise Errors::WorkerError.new("version_mismatch", message)
      end
    end
  end
end
